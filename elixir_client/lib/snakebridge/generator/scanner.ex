defmodule SnakeBridge.Generator.Scanner do
  @moduledoc """
  Finds calls of wrapper modules in Elixir sources, by their syntax: through aliases (`as:`, several at once), imports, captures, pipes,
  `defdelegate`, `apply/3`, `{Module, :function, args}` and module attributes that name a module. Nothing is compiled or run.

  What only shows when the program runs (`module.function()` with a variable) is not seen: name such symbols in the configuration.
  """

  defmodule Use do
    @moduledoc "A call of a wrapper: `optional` where it may as well be something else, as after an `import` of everything."
    @enforce_keys [:module, :function, :line]
    defstruct [:module, :function, :line, optional: false]

    @type t :: %__MODULE__{
            module: String.t(),
            function: String.t(),
            line: pos_integer(),
            optional: boolean()
          }
  end

  # What a local call after an import cannot be.
  @local (Kernel.__info__(:functions) ++
            Kernel.__info__(:macros) ++ Kernel.SpecialForms.__info__(:macros))
         |> MapSet.new(&elem(&1, 0))

  @doc """
  The uses of modules below the `roots` in a source text, by line. A text that is no Elixir has none: its compilation will say what is wrong.
  """
  @spec scan(String.t(), [String.t()]) :: [Use.t()]
  def scan(source, roots) do
    # Most files name no library: they need not be parsed.
    with true <- Enum.any?(roots, &String.contains?(source, first(&1))),
         {:ok, ast} <- Code.string_to_quoted(source, columns: false, emit_warnings: false) do
      env = %{roots: roots, aliases: %{}, attributes: %{}, imports: [], module: nil}
      {_, uses} = walk(ast, env, [])
      uses |> Enum.reverse() |> Enum.uniq() |> Enum.sort_by(& &1.line)
    else
      _ -> []
    end
  end

  # `alias Numpy.{Linalg}` and nested modules: the first segment is what every way to name a module has.
  defp first(root), do: root |> String.split(".") |> hd()

  # --- the walk: each expression may change what those after it in its block see ---

  defp walk({:__block__, _, expressions}, env, uses) when is_list(expressions) do
    Enum.reduce(expressions, {env, uses}, fn expression, {env, uses} -> walk(expression, env, uses) end)
  end

  # alias A.{B, C}; alias A.B; alias A.B, as: C; require A, as: B
  defp walk({:alias, _, [{{:., _, [base, :{}]}, _, names} | _]}, env, uses) do
    env =
      Enum.reduce(names, env, fn
        {:__aliases__, _, segments}, env ->
          case module(base, env) do
            nil -> env
            base -> put_alias(env, List.last(segments), join(base, segments))
          end

        _, env ->
          env
      end)

    {env, uses}
  end

  defp walk({kind, _, [target | options]}, env, uses) when kind in [:alias, :require] do
    with name when is_binary(name) <- module(target, env) do
      case {kind, List.keyfind(List.flatten(options), :as, 0)} do
        {_, {:as, {:__aliases__, _, [short]}}} -> {put_alias(env, short, name), uses}
        {:alias, nil} -> {put_alias(env, last(name), name), uses}
        _ -> {env, uses}
      end
    else
      _ -> {env, uses}
    end
  end

  defp walk({:import, meta, [target | options]}, env, uses) do
    with name when is_binary(name) <- library(target, env) do
      case options do
        [[{:only, only} | _]] when is_list(only) ->
          {env, for({function, _} <- only, reduce: uses, do: (uses -> [use_of(name, function, meta) | uses]))}

        _ ->
          {%{env | imports: [name | env.imports]}, uses}
      end
    else
      _ -> {env, uses}
    end
  end

  defp walk({:defmodule, _, [{:__aliases__, _, segments} = name, body]}, env, uses) do
    full =
      if env.module && Enum.all?(segments, &is_atom/1),
        do: join(env.module, segments),
        else: module(name, env)

    # Inside, and after it, a nested module is known by its own name.
    outer =
      if env.module && full, do: put_alias(env, hd(segments), join(env.module, [hd(segments)])), else: env

    {_, uses} = walk(body, %{outer | module: full}, uses)
    {outer, uses}
  end

  # @np Numpy
  defp walk({:@, _, [{name, _, [{:__aliases__, _, _} = target]}]}, env, uses) when is_atom(name) do
    case library(target, env) do
      nil -> {env, uses}
      module -> {%{env | attributes: Map.put(env.attributes, name, module)}, uses}
    end
  end

  defp walk({:defdelegate, meta, [heads, options]} = node, env, uses) when is_list(options) do
    case library(options[:to], env) do
      nil ->
        children(node, env, uses)

      module ->
        names = for {name, _, _} <- List.wrap(heads), is_atom(name), do: options[:as] || name
        {env, Enum.reduce(names, uses, &[use_of(module, &1, meta) | &2])}
    end
  end

  # Numpy.sum(x), x |> Numpy.sum(), &Numpy.sum/1, @np.sum(x)
  defp walk({{:., meta, [target, function]}, _, arguments}, env, uses) when is_atom(function) do
    uses =
      case library(target, env) do
        nil -> uses
        module -> [use_of(module, function, meta) | uses]
      end

    {_, uses} = walk(target, env, uses)
    walk_all(arguments, env, uses)
  end

  defp walk({:apply, meta, [target, function, arguments]}, env, uses) when is_atom(function),
    do: mfa(target, function, arguments, meta, env, uses)

  defp walk({:{}, meta, [target, function, arguments]}, env, uses) when is_atom(function),
    do: mfa(target, function, arguments, meta, env, uses)

  # &sum/1 of an imported function
  defp walk({:&, meta, [{:/, _, [{name, _, context}, arity]}]}, env, uses)
       when is_atom(name) and is_atom(context) and is_integer(arity),
       do: {env, imported(name, meta, env, uses)}

  defp walk({name, meta, arguments} = node, env, uses) when is_atom(name) and is_list(arguments) do
    # Task.async(Numpy, :sum, [x]) and the like come as calls: their arguments may hold a module, a name and a list in a row.
    uses = if env.imports == [], do: uses, else: imported(name, meta, env, uses)
    children(node, env, uses)
  end

  defp walk({left, right}, env, uses) do
    {_, uses} = walk(left, env, uses)
    {_, uses} = walk(right, env, uses)
    {env, uses}
  end

  defp walk(list, env, uses) when is_list(list), do: walk_all(list, env, uses)
  defp walk(_, env, uses), do: {env, uses}

  defp children({name, _, arguments}, env, uses) do
    {_, uses} = walk(name, env, uses)
    walk_all(arguments, env, uses)
  end

  # In arguments and in `do` blocks aliases hold for themselves only.
  defp walk_all([target, function, arguments | rest], env, uses)
       when is_atom(function) and is_list(arguments) do
    uses =
      case {target, library(target, env)} do
        {{:__aliases__, meta, _}, module} when is_binary(module) -> [use_of(module, function, meta) | uses]
        _ -> uses
      end

    {_, uses} = walk(target, env, uses)
    walk_all([arguments | rest], env, uses)
  end

  defp walk_all([head | tail], env, uses) do
    {_, uses} = walk(head, env, uses)
    walk_all(tail, env, uses)
  end

  defp walk_all(_, env, uses), do: {env, uses}

  defp mfa(target, function, arguments, meta, env, uses) do
    uses =
      case library(target, env) do
        nil -> uses
        module -> [use_of(module, function, meta) | uses]
      end

    walk(arguments, env, uses)
  end

  defp imported(name, meta, env, uses) do
    if MapSet.member?(@local, name) do
      uses
    else
      Enum.reduce(env.imports, uses, &[%{use_of(&1, name, meta) | optional: true} | &2])
    end
  end

  defp use_of(module, function, meta) do
    name = function |> Atom.to_string() |> String.trim_trailing("!")
    %Use{module: module, function: name, line: meta[:line] || 1}
  end

  # --- names ---

  # The module when it is a library's.
  defp library(target, env) do
    name = module(target, env)

    if name && Enum.any?(env.roots, &(name == &1 or String.starts_with?(name, &1 <> "."))), do: name
  end

  defp module({:__aliases__, _, [Elixir | segments]}, _env) when segments != [], do: join(nil, segments)

  defp module({:__aliases__, _, [first | rest] = segments}, env) do
    case first do
      {:__MODULE__, _, _} when is_binary(env.module) -> join(env.module, rest)
      first when is_map_key(env.aliases, first) -> join(env.aliases[first], rest)
      first when is_atom(first) -> join(nil, segments)
      _ -> nil
    end
  end

  defp module({:__MODULE__, _, _}, env), do: env.module
  defp module({:@, _, [{name, _, context}]}, env) when is_atom(context), do: env.attributes[name]
  defp module(_, _), do: nil

  defp join(base, segments) do
    if Enum.all?(segments, &is_atom/1), do: Enum.join(List.wrap(base) ++ segments, ".")
  end

  defp last(name), do: name |> String.split(".") |> List.last() |> String.to_atom()

  defp put_alias(env, _, nil), do: env
  defp put_alias(env, short, name), do: %{env | aliases: Map.put(env.aliases, short, name)}
end
