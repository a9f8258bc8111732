defmodule SnakeBridge.Wrapper do
  @moduledoc """
  What the modules that `mix snakebridge.gen` writes share: which of their arguments are Python's and which are options.

  A generated function takes Python's required parameters, then its optional ones, then options. The optional ones and the options may be left
  out, and options may come at once: a last argument that is a keyword list, also `[]`, is the options. Where it shall be an argument, write the
  options after it: `f(a, [], [])`. Only in the place of `*args`, where data are expected, an empty list is an argument.
  """

  alias SnakeBridge.Error

  @default :__snakebridge_default__

  @typedoc "Stands for an argument that was left out."
  @type default :: :__snakebridge_default__

  @typedoc "An optional argument, or the options in its place."
  @type arg(type) :: type | keyword() | default()

  @typedoc "Keyword arguments for Python, and the options of `SnakeBridge.Runtime`."
  @type opts :: keyword() | default()

  # Options of a call may ask for other forms of the same value: a ref, bytes as a binary, an ordered map, an Nx tensor.
  @typedoc "A value, or the form of it that the options of a call asked for."
  @type value(type) :: type | struct() | binary()

  @type result(type) :: {:ok, value(type)} | {:error, Error.t() | term()}

  @doc "What stands for an argument that was left out: the default of generated functions."
  @spec unset() :: default()
  def unset, do: @default

  @doc """
  The positional arguments and the options of a call: `required`, what was given of `optional` and of `rest` (the places of `*args`), and `opts`.

      iex> SnakeBridge.Wrapper.arguments([1], [2, [keepdims: true]], [], SnakeBridge.Wrapper.unset())
      {[1, 2], [keepdims: true]}
  """
  @spec arguments([term()], [term()], [term()], term()) :: {[term()], keyword()}
  def arguments(required, optional, rest, opts)

  def arguments(required, optional, rest, @default) do
    # Arguments are left out from the end: everything before one that was given was given.
    case {given(optional), given(rest)} do
      {optional, []} ->
        {optional, opts} = last_options(optional, &Keyword.keyword?/1)
        {required ++ optional, opts}

      {optional, rest} ->
        {rest, opts} = last_options(rest, &(&1 != [] and Keyword.keyword?(&1)))
        {required ++ optional ++ rest, opts}
    end
  end

  def arguments(required, optional, rest, opts),
    do: {required ++ given(optional) ++ given(rest), options(opts)}

  defp given(arguments), do: Enum.take_while(arguments, &(&1 != @default))

  defp last_options([], _), do: {[], []}

  defp last_options(arguments, options?) do
    {before, [last]} = Enum.split(arguments, -1)
    if options?.(last), do: {before, last}, else: {arguments, []}
  end

  defp options(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError,
            "the last argument is the options, a keyword list, not #{inspect(opts, limit: 5, printable_limit: 60)}; " <>
              "more positional arguments than the function has places for go under __args__: [...]"
    end

    opts
  end

  @doc "The options, which must hold the keywords that Python has no default for."
  @spec required(keyword(), [atom()], module(), atom()) :: keyword()
  def required(opts, names, module, function) do
    given = if Keyword.keyword?(opts), do: opts, else: []

    case Enum.reject(names, &Keyword.has_key?(given, &1)) do
      [] ->
        opts

      missing ->
        raise ArgumentError,
              "#{inspect(module)}.#{function} needs #{Enum.map_join(missing, ", ", &"#{&1}:")} among its options, a keyword list after all " <>
                "other arguments: Python takes it by name only and has no default for it; add " <>
                "#{Enum.map_join(missing, ", ", &"#{&1}: ...")} to the call"
    end
  end

  @doc "The value of a result; raises its error."
  @spec bang(:ok | {:ok, value} | {:error, term()}) :: :ok | value when value: term()
  def bang(:ok), do: :ok
  def bang({:ok, value}), do: value
  def bang({:error, error}) when is_exception(error), do: raise(error)

  def bang({:error, other}),
    do: raise(Error.new(:unavailable, "the runtime client answered #{inspect(other)}"))
end
