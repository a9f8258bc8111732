defprotocol SnakeBridge.Encoder do
  @moduledoc """
  How a struct of yours travels to Python by value: as a tag and a payload, any term that travels itself. Python reads it with
  `codec.register(type, tag, ...)`; without that it keeps the value and sends it back as it came.

  Derived, the payload is a map of the fields, by name:

      defmodule Geo.Point do
        @derive {SnakeBridge.Encoder, tag: "geo.point"}
        defstruct [:x, :y]
      end

  `only: [:x]` names the fields that travel. `SnakeBridge.Types.register/2` says what becomes of the tag on the way back. A struct without an
  implementation travels as an opaque term: Python can keep it and send it back.
  """

  @doc "The tag and the payload of a struct."
  @spec encode(t) :: {tag :: String.t(), payload :: term()}
  def encode(term)
end

defimpl SnakeBridge.Encoder, for: Any do
  defmacro __deriving__(module, struct, options) do
    tag = Keyword.get(options, :tag)
    with {:error, rule} <- SnakeBridge.Types.check_tag(tag), do: raise(ArgumentError, rule)

    fields = struct |> Map.keys() |> List.delete(:__struct__)
    only = Keyword.get(options, :only, fields)
    unknown = only -- fields

    if unknown != [],
      do: raise(ArgumentError, "#{inspect(unknown)} in :only are no fields of #{inspect(module)}")

    payload = for field <- only, do: {Atom.to_string(field), quote(do: struct.unquote(field))}

    quote do
      defimpl SnakeBridge.Encoder, for: unquote(module) do
        def encode(struct), do: {unquote(tag), %{unquote_splicing(payload)}}
      end
    end
  end

  def encode(term), do: raise(Protocol.UndefinedError, protocol: @protocol, value: term)
end
