defmodule SnakeBridge.Generator do
  @moduledoc """
  Keeps the wrapper modules of a project in step with what it uses of Python: asks Python for what is missing, writes the modules, the manifest and
  the lock. `mix snakebridge.gen` and the compiler are thin around it; docs/wrappers.md tells the whole.
  """

  alias SnakeBridge.Generator.{
    Introspection,
    Library,
    Lock,
    Manifest,
    Names,
    Plan,
    Renderer,
    Settings,
    State,
    Writer
  }

  defmodule Result do
    @moduledoc """
    What a run did: files written and removed, `problems` as introspection tells them, the Python files of the project's own libraries, and how
    the environment differs from the lock. `open`: something that is wanted was not described, and is to be asked for by the next run.
    """
    defstruct written: [],
              removed: [],
              described: %{},
              problems: [],
              own: %{},
              differences: [],
              open: false

    @type t :: %__MODULE__{
            written: [Path.t()],
            removed: [Path.t()],
            described: %{String.t() => map()},
            problems: [map()],
            own: %{String.t() => [Path.t()]},
            differences: [String.t()],
            open: boolean()
          }
  end

  @typedoc """
  `:fill` asks for what is missing only; `:refresh` asks for everything again and takes over the present environment; `:prune` does so for what is
  wanted now, and forgets the rest.
  """
  @type mode :: :fill | :refresh | :prune

  @doc """
  Brings everything up to date with the `libraries`, whose symbols and uses are what the project wants. `options`: `:mode`, `:python` (false: never
  start Python), `:dry` (write nothing), `:say`.
  """
  @spec run(Settings.t(), [Library.t()], State.t(), keyword()) ::
          {:ok, Result.t(), State.t()} | {:error, String.t()}
  def run(%Settings{} = settings, libraries, %State{} = state, options \\ []) do
    with {:ok, manifest} <- Manifest.read(settings.manifest),
         {:ok, lock} <- Lock.read(settings.lock),
         :ok <- same_roots(libraries, manifest, options[:mode]) do
      run(settings, libraries, state, options, manifest, lock)
    end
  end

  @doc """
  Generates wrapper modules and loads them, without files: for scripts, Livebooks and IEx. `libraries` are as in the configuration; of a library
  without options its own module is wrapped. Returns the modules.

      SnakeBridge.Generator.define(json: [only: ["dumps"]])
      #=> [Json]

  Options: `:python`, the Python that describes them; without it that of the configuration.
  """
  @spec define([atom() | String.t() | {atom() | String.t(), keyword()}], keyword()) :: [module()]
  def define(libraries, options \\ []) do
    config = :snakebridge |> Application.get_all_env() |> Keyword.put(:libraries, libraries)
    settings = Settings.new(File.cwd!(), config, options)

    question =
      for library <- settings.libraries do
        if library.all or library.symbols != [], do: library, else: %{library | symbols: [""]}
      end

    case Introspection.run(settings, question, &IO.puts(:stderr, &1)) do
      {:ok, %{"modules" => modules, "problems" => problems}} ->
        for %{"kind" => kind, "message" => message} <- problems, kind in ["import", "unknown"] do
          raise ArgumentError, message
        end

        load(modules)

      {:error, message} ->
        raise ArgumentError, message
    end
  end

  defp load(modules) do
    classes = modules |> Map.new(&{&1["elixir"], &1}) |> Writer.classes()
    before = Code.compiler_options(ignore_module_conflict: true)

    try do
      for description <- modules,
          source = Renderer.render(description, Map.get(classes, description["elixir"], [])),
          {module, _} <- Code.compile_string(source, Names.file(description["elixir"])),
          do: module
    after
      Code.compiler_options(before)
    end
  end

  # Two modules for one library would be generated side by side.
  defp same_roots(_, _, :prune), do: :ok

  defp same_roots(libraries, manifest, _) do
    case Enum.find(libraries, &(Map.get(manifest.libraries, &1.name, &1.root) != &1.root)) do
      nil ->
        :ok

      library ->
        {:error,
         "#{library.name} was generated as #{manifest.libraries[library.name]} and is now to be #{library.root}; run mix snakebridge.gen --prune " <>
           "once, or name the former module"}
    end
  end

  defp run(settings, libraries, state, options, manifest, lock) do
    mode = options[:mode] || :fill
    # The project's own Python changes under our hands; what it did not have it may have now.
    stale = if mode == :fill and options[:python] != false, do: stale(libraries, state), else: []
    state = if stale == [], do: state, else: %{state | settled: %{}}
    missing = Plan.missing(libraries, manifest, state.settled)
    remembered = Plan.remembered?(state, manifest)
    intact = intact?(manifest, settings)

    # A lock that got lost comes back, where there is a Python to say what it holds.
    unlocked =
      Lock.empty?(lock) and manifest.modules != %{} and options[:python] != false and
        match?({:ok, _}, Settings.executable(settings))

    cond do
      mode == :fill and not unlocked and stale == [] and
        (missing == [] or (options[:python] == false and not Plan.needed?(missing))) and
          (remembered or intact) ->
        with {:ok, result, state} <- settle(settings, manifest, state, remembered, options),
             do: {:ok, %{result | open: missing != []}, state}

      mode == :prune and Plan.missing(libraries, %Manifest{}, %{}) == [] ->
        forget(settings, libraries, lock, state, options)

      options[:python] == false ->
        {:error, unavailable(missing, settings)}

      true ->
        # Where the descriptions are at hand only what is missing is asked for.
        {known, question} =
          case mode do
            :fill when remembered and not unlocked ->
              others = Enum.reject(missing, &(&1.name in stale))
              {unchanged(state, manifest, stale), Plan.anew(libraries, manifest, stale) ++ others}

            :prune ->
              {%{}, Plan.missing(libraries, %Manifest{}, %{})}

            _ ->
              {%{}, Plan.with_manifest(libraries, manifest)}
          end

        context = %{settings: settings, manifest: manifest, lock: lock, mode: mode, options: options}
        ask(context, libraries, question, known, state)
    end
  end

  # One that is not configured any more is not asked for.
  defp stale(libraries, state),
    do: Enum.filter(State.stale(state), fn name -> Enum.any?(libraries, &(&1.name == name)) end)

  defp unchanged(state, manifest, stale) do
    state
    |> Plan.described(manifest)
    |> Map.reject(fn {_, description} -> description["library"] in stale end)
  end

  # Nothing to ask: files that are gone or were changed are written again, if their descriptions are at hand.
  defp settle(_, _, state, false, _), do: {:ok, %Result{}, state}

  defp settle(settings, manifest, state, true, options) do
    described = Plan.described(state, manifest)

    if options[:dry] do
      {:ok, %Result{described: described}, state}
    else
      {rendered, written, removed} = write(described, settings, state)
      {:ok, %Result{written: written, removed: removed, described: described}, %{state | rendered: rendered}}
    end
  end

  # Nothing is wanted any more, which needs no Python.
  defp forget(settings, libraries, lock, state, options) do
    if options[:dry] == true or not File.exists?(settings.manifest) do
      {:ok, %Result{}, state}
    else
      {rendered, [], removed} = write(%{}, settings, state)
      Manifest.write(Manifest.new(Map.new(libraries, &{&1.name, &1.root}), [], %{}), settings.manifest)
      unless Lock.empty?(lock), do: Lock.write(%{lock | packages: %{}}, settings.lock)
      {:ok, %Result{removed: removed}, %{state | described: %{}, rendered: rendered, settled: %{}, own: %{}}}
    end
  end

  defp write(described, settings, state) do
    {rendered, written, removed} = Writer.write(described, settings.out, settings.format, state.rendered)
    {rendered, written, removed ++ Writer.move_out(state.rendered, settings.out, settings.sources)}
  end

  defp intact?(manifest, settings) do
    manifest.modules |> Writer.files(settings.out) |> Enum.all?(fn {_, path} -> File.exists?(path) end)
  end

  defp unavailable([], settings) do
    "files below #{Path.relative_to_cwd(settings.out)} are missing and their descriptions are not at hand; take the files from version control, " <>
      "or run mix snakebridge.gen with a Python that has the libraries"
  end

  defp unavailable(missing, _) do
    names =
      for library <- missing,
          name <-
            if(library.all, do: [library.name], else: []) ++
              Enum.map(library.symbols, &"#{library.name}.#{&1}") ++
              for({module, function, false} <- library.uses, do: "#{module}.#{function}"),
          do: name

    {shown, rest} = Enum.split(names, 8)
    more = if rest == [], do: "", else: " and #{length(rest)} more"

    "#{Enum.join(shown, ", ")}#{more} must be described by Python, which was not to be started; run mix snakebridge.gen where the libraries are " <>
      "installed and commit what it writes"
  end

  defp ask(context, libraries, question, known, state) do
    %{settings: settings, options: options} = context
    context = Map.put(context, :began, System.os_time(:second))

    with {:ok, answer} <- introspect(settings, question, options) do
      failed = for %{"kind" => "import", "library" => name} <- answer["problems"], do: name
      described = Plan.merge(known, answer["modules"])
      present = Lock.new(answer)
      problems = answer["problems"]

      result = %Result{
        described: described,
        problems: problems,
        own: answer["own"] || %{},
        differences:
          for({:drift, line} <- Lock.differences(known_lock(context.lock, present), present), do: line)
      }

      cond do
        # Half an answer is not written over what was whole.
        failed != [] or options[:dry] -> {:ok, %{result | open: failed != []}, state}
        true -> store(context, libraries, result, present, state)
      end
    end
  end

  defp introspect(_, [], _),
    do: {:error, "nothing is asked for: name libraries, or config :snakebridge, libraries: [...]"}

  defp introspect(settings, question, options) do
    say = options[:say] || fn _ -> :ok end
    Introspection.run(settings, question, say)
  end

  # A partial question says nothing of packages that it did not touch.
  defp known_lock(lock, present), do: %{lock | packages: Map.take(lock.packages, Map.keys(present.packages))}

  defp store(context, libraries, result, present, state) do
    %{settings: settings, manifest: manifest, lock: lock, mode: mode} = context
    kept = if mode == :prune, do: %Manifest{}, else: manifest
    unknown = for %{"kind" => "unknown"} = problem <- result.problems, do: problem

    missed =
      for %{"use" => nil, "library" => name, "symbol" => symbol} <- unknown,
          mark <- [symbol, "~" <> symbol],
          do: {name, mark}

    roots = Map.merge(kept.libraries, Map.new(libraries, &{&1.name, &1.root}))
    asked = MapSet.difference(MapSet.union(kept.asked, MapSet.new(Plan.asked(libraries))), MapSet.new(missed))

    {rendered, written, removed} = write(result.described, settings, state)

    manifest = Manifest.new(roots, asked, result.described)
    Manifest.write(manifest, settings.manifest)
    Lock.write(if(mode == :fill, do: Lock.extend(lock, present), else: present), settings.lock)

    settled = if mode == :fill, do: state.settled, else: %{}
    own = if mode == :fill, do: state.own, else: %{}
    state = %{state | own: Map.merge(own, State.noted(result.own, context.began))}
    state = %{state | described: result.described, rendered: rendered}
    state = %{state | settled: Map.merge(settled, settled(libraries, manifest, unknown))}
    {:ok, %{result | written: written, removed: removed}, state}
  end

  # What was wanted and did not come: Python is not asked again until the settings change or everything is asked anew.
  defp settled(libraries, manifest, unknown) do
    said =
      for problem <- unknown, into: %{} do
        case problem do
          %{"use" => %{"module" => module, "function" => function}, "message" => message} ->
            {{:use, module, function}, message}

          %{"library" => library, "symbol" => symbol, "message" => message} ->
            {{:symbol, library, symbol}, message}
        end
      end

    absent =
      for library <- libraries,
          {module, function, _} <- library.uses,
          not Manifest.covers?(manifest, module, function),
          into: %{},
          do: {{:use, module, function}, ""}

    Map.merge(absent, said)
  end
end
