defmodule SnakeBridge.Types do
  @moduledoc """
  Types of your own, and `tagged`: values as what JSON can hold, with `__type__` tags for what it cannot.

  ## Types of your own

  `SnakeBridge.Encoder` says how a struct travels to Python, `register/2` what becomes of its tag on the way back. The same from the start of
  the application:

      config :snakebridge, types: %{"geo.point" => Geo.Point}

  ## tagged

  `encode/2` gives plain maps, lists, texts and numbers, ready for any JSON library; `decode/2` takes what such a library read. Schema 1 is
  what Snakepit carries. Nothing is changed without a word, but it says less than `SnakeBridge.Codec.Packed`: it has one tag for sets and
  frozensets to decode, no time zone names, and atoms come back as text unless they are allowed:

      config :snakebridge, atom_allowlist: ["ok", "error"]   # the default; :all for every atom that exists

  With the option `schema: 2` it says all that `packed` says, for peers that asked for it. `decode/2` reads both.

  Options are those of `SnakeBridge.Codec.Options`; a `session_id` among `:ref_defaults` is the session of refs that name none.
  """

  alias SnakeBridge.Codec.{Failure, Options, TaggedDecoder, TaggedEncoder, Typed}
  alias SnakeBridge.Error

  @typedoc "Makes a term of a payload: a function, or a struct whose fields are those of a map."
  @type load :: (payload :: term() -> term()) | module()

  @max_tag 200

  @doc """
  Makes values with a tag come as terms of your own.

      SnakeBridge.Types.register("geo.point", fn %{"x" => x, "y" => y} -> {x, y} end)
      SnakeBridge.Types.register("geo.point", Geo.Point)

  A struct gets the fields of the map; a field that it does not have is an error. Registering again replaces; a call that is under way may
  still see the one before. Raises `ArgumentError` for a tag of the codec's own.
  """
  @spec register(String.t(), load()) :: :ok
  def register(tag, load) do
    with {:error, rule} <- check_tag(tag), do: raise(ArgumentError, rule)

    unless is_function(load, 1) or (is_atom(load) and Code.ensure_loaded?(load) and struct?(load)),
      do:
        raise(
          ArgumentError,
          "the type #{inspect(tag)} needs a function of one argument or a struct, not #{inspect(load)}"
        )

    # Two processes that register at once must not lose one of the two.
    :global.trans(
      {__MODULE__, self()},
      fn -> :persistent_term.put(__MODULE__, Map.put(registered(), tag, load)) end,
      [node()]
    )

    :ok
  end

  defp struct?(module), do: function_exported?(module, :__struct__, 1)

  @doc "Says what is wrong with a tag for a type of the user, or `:ok`."
  @spec check_tag(term()) :: :ok | {:error, String.t()}
  def check_tag(tag) do
    cond do
      not (is_binary(tag) and String.valid?(tag) and String.length(tag) in 1..@max_tag) ->
        {:error, "a tag is a text of 1 to #{@max_tag} characters, not #{inspect(tag, printable_limit: 80)}"}

      Typed.reserved?(tag) ->
        {:error, "the tag #{inspect(tag)} is the codec's own; choose another, such as \"myapp.#{tag}\""}

      true ->
        :ok
    end
  end

  @doc false
  @spec registered() :: %{String.t() => load()}
  def registered, do: :persistent_term.get(__MODULE__, %{})

  @doc false
  # At the start of the application: types of the configuration, and atoms that Python may name though no module here does.
  @spec configure() :: :ok
  def configure do
    Enum.each(Application.get_env(:snakebridge, :types, %{}), fn {tag, load} -> register(tag, load) end)
    Enum.each(Application.get_env(:snakebridge, :atoms, []), &String.to_atom(to_string(&1)))
    :ok
  end

  @doc """
  The tagged form of a term. Raises `SnakeBridge.Error` for a term that has none.

      iex> SnakeBridge.Types.encode(%{point: {1, 2}})
      %{"point" => %{"__type__" => "tuple", "__schema__" => 1, "elements" => [1, 2]}}
  """
  @spec encode(term(), keyword() | Options.t()) :: term()
  def encode(term, options \\ []) do
    options = Options.new(options)
    result(fn -> {:ok, TaggedEncoder.run(term, options)} end)
  end

  @doc """
  The term of a tagged form. Raises `SnakeBridge.Error` where a tag is malformed.

      iex> SnakeBridge.Types.decode(%{"__type__" => "tuple", "elements" => [1, 2]})
      {1, 2}
  """
  @spec decode(term(), keyword() | Options.t()) :: term()
  def decode(json, options \\ []) do
    options = Options.new(options)
    result(fn -> {:ok, TaggedDecoder.run(json, options)} end)
  end

  defp result(walk) do
    case Failure.catching(walk) do
      {:ok, value} -> value
      {:error, %Error{} = error} -> raise error
    end
  end
end
