defmodule SnakeBridge.Lane do
  @moduledoc """
  The messages of the lane (docs/wire.md section 2), as data: builds frames, reads bodies. Pure; `SnakeBridge.Lane.Connection` moves them.
  """
  alias SnakeBridge.Codec.{Options, Packed}
  alias SnakeBridge.{Error, OrderedMap}

  @version 1
  # A value of the allowed depth lies inside: message, params, payload, args.
  @envelope_depth 4
  # Bytes that an error message may have, and characters that are left of a longer one.
  @message_limit 64 * 1024
  @shown 8 * 1024

  @type message ::
          {:request, non_neg_integer(), String.t(), term()}
          | {:response, non_neg_integer(), nil | map(), term()}
          | {:notification, String.t(), term()}

  @doc "The version of the lane that this client speaks."
  def version, do: @version

  @doc "Codec options for whole messages: room for the envelope around a value of the allowed depth."
  @spec options(keyword()) :: Options.t()
  def options(opts) do
    options = Options.new(opts)
    %{options | depth: options.depth + @envelope_depth}
  end

  @spec request(non_neg_integer(), String.t(), term(), Options.t()) :: {:ok, iodata()} | {:error, Error.t()}
  def request(id, method, params, options), do: Packed.encode([0, id, method, params], options)

  @spec response(non_neg_integer(), nil | map(), term(), Options.t()) :: {:ok, iodata()} | {:error, Error.t()}
  def response(id, error, result, options), do: Packed.encode([1, id, error, result], options)

  @spec notification(String.t(), term()) :: iodata()
  def notification(method, params) do
    {:ok, body} = Packed.encode([2, method, params], [])
    body
  end

  @doc "An error answer to a request. A long message is cut: whatever else fails, this must reach who waits for it."
  @spec refusal(non_neg_integer(), String.t(), String.t(), String.t() | nil) :: iodata()
  def refusal(id, category, message, type \\ nil) do
    message = if byte_size(message) > @message_limit, do: String.slice(message, 0, @shown), else: message
    error = %{"category" => category, "message" => message, "type" => type}
    {:ok, body} = Packed.encode([1, id, error, nil], [])
    body
  end

  @doc "What a body is whose values cannot be read: its first bytes say who waits for it."
  @spec peek(binary()) ::
          {:request | :response, non_neg_integer()} | {:notification, String.t()} | :garbage
  def peek(<<0x94, 0, rest::binary>>), do: peek_id(:request, rest)
  def peek(<<head, 1, rest::binary>>) when head in [0x94, 0x95], do: peek_id(:response, rest)

  # The methods of notifications are shorter than 32 bytes.
  def peek(<<0x93, 2, 0b101::3, size::5, method::binary-size(size), _::binary>>), do: {:notification, method}
  def peek(_), do: :garbage

  defp peek_id(kind, <<id, _::binary>>) when id < 0x80, do: {kind, id}

  for {head, bits} <- [{0xCC, 8}, {0xCD, 16}, {0xCE, 32}, {0xCF, 64}] do
    defp peek_id(kind, <<unquote(head), id::unquote(bits), _::binary>>), do: {kind, id}
  end

  defp peek_id(_, _), do: :garbage

  @doc "The message of a frame's body."
  @spec parse(binary(), Options.t()) :: {:ok, message()} | {:error, Error.t()}
  def parse(body, options) do
    case Packed.decode(body, options) do
      {:ok, [1, id, error, result]} when is_integer(id) ->
        {:ok, {:response, id, deep_plain(error), result}}

      # To a call with a key: how its answer came about.
      {:ok, [1, id, error, result, outcome]} when is_integer(id) ->
        {:ok, {:response, id, deep_plain(error), result, outcome}}

      {:ok, [2, method, params]} when is_binary(method) ->
        {:ok, {:notification, method, params}}

      {:ok, [0, id, method, params]} when is_integer(id) and is_binary(method) ->
        {:ok, {:request, id, method, plain(params)}}

      {:ok, other} ->
        {:error, Error.new(:protocol_error, "not a lane message: #{inspect(other, limit: 5)}")}

      {:error, error} ->
        {:error, error}
    end
  end

  # Where dicts come as ordered maps, the maps of the lane itself do, too.

  @doc "A map of the lane or of keyword arguments, whatever dicts come as."
  @spec plain(term()) :: term()
  def plain(%OrderedMap{pairs: pairs}), do: Map.new(pairs)
  def plain(other), do: other

  defp deep_plain(%OrderedMap{pairs: pairs}),
    do: Map.new(pairs, fn {key, value} -> {key, deep_plain(value)} end)

  defp deep_plain(items) when is_list(items), do: Enum.map(items, &deep_plain/1)
  defp deep_plain(other), do: other
end
