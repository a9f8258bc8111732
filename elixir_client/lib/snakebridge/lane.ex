defmodule SnakeBridge.Lane do
  @moduledoc """
  The messages of the lane (docs/wire.md section 2), as data: builds frames, reads bodies. Pure; `SnakeBridge.Lane.Connection` moves them.
  """
  alias SnakeBridge.Codec.{Options, Packed}
  alias SnakeBridge.{Error, OrderedMap}

  @version 1
  # A value of the allowed depth lies inside: message, params, payload, args.
  @envelope_depth 4

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

  @doc "Whether a frame's body is a notification, be it readable or not."
  @spec notification?(binary()) :: boolean()
  def notification?(body), do: match?(<<0x93, 2, _::binary>>, body)

  @doc "The message of a frame's body."
  @spec parse(binary(), Options.t()) :: {:ok, message()} | {:error, Error.t()}
  def parse(body, options) do
    case Packed.decode(body, options) do
      {:ok, [1, id, error, result]} when is_integer(id) ->
        {:ok, {:response, id, deep_plain(error), result}}

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
  defp plain(%OrderedMap{pairs: pairs}), do: Map.new(pairs)
  defp plain(other), do: other

  defp deep_plain(%OrderedMap{pairs: pairs}),
    do: Map.new(pairs, fn {key, value} -> {key, deep_plain(value)} end)

  defp deep_plain(items) when is_list(items), do: Enum.map(items, &deep_plain/1)
  defp deep_plain(other), do: other
end
