defmodule SnakeBridge.Test.Json do
  @moduledoc """
  A JSON reader for tests, which must not depend on a hex package: integers of any size stay integers, -0.0 keeps its sign. The texts are
  our own vectors, so it raises `MatchError` or `CaseClauseError` for what is no JSON.
  """

  @spec decode!(String.t()) :: term()
  def decode!(text) do
    {value, rest} = value(skip(text))
    "" = skip(rest)
    value
  end

  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("\"" <> rest), do: string(rest, [])
  defp value("[" <> rest), do: array(skip(rest), [])
  defp value("{" <> rest), do: object(skip(rest), %{})
  defp value(text), do: number(text)

  defp array("]" <> rest, []), do: {[], rest}

  defp array(text, items) do
    {item, rest} = value(text)

    case skip(rest) do
      "," <> rest -> array(skip(rest), [item | items])
      "]" <> rest -> {Enum.reverse([item | items]), rest}
    end
  end

  defp object("}" <> rest, fields) when fields == %{}, do: {fields, rest}

  defp object("\"" <> text, fields) do
    {key, rest} = string(text, [])
    ":" <> rest = skip(rest)
    {item, rest} = value(skip(rest))
    fields = Map.put(fields, key, item)

    case skip(rest) do
      "," <> rest -> object(skip(rest), fields)
      "}" <> rest -> {fields, rest}
    end
  end

  @escapes %{?" => "\"", ?\\ => "\\", ?/ => "/", ?b => "\b", ?f => "\f", ?n => "\n", ?r => "\r", ?t => "\t"}

  defp string("\"" <> rest, parts), do: {parts |> Enum.reverse() |> IO.iodata_to_binary(), rest}

  defp string("\\u" <> <<high::binary-size(4), "\\u", low::binary-size(4), rest::binary>>, parts)
       when binary_part(high, 0, 2) in ~w(d8 d9 da db D8 D9 DA DB) do
    {high, low} = {String.to_integer(high, 16), String.to_integer(low, 16)}
    string(rest, [<<0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00)::utf8>> | parts])
  end

  defp string("\\u" <> <<code::binary-size(4), rest::binary>>, parts),
    do: string(rest, [<<String.to_integer(code, 16)::utf8>> | parts])

  defp string(<<"\\", escape, rest::binary>>, parts), do: string(rest, [Map.fetch!(@escapes, escape) | parts])
  defp string(<<char::utf8, rest::binary>>, parts), do: string(rest, [<<char::utf8>> | parts])

  defp number(text) do
    [number] = Regex.run(~r/^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?/, text, capture: :first)
    rest = binary_part(text, byte_size(number), byte_size(text) - byte_size(number))

    cond do
      String.contains?(number, ".") -> {String.to_float(number), rest}
      number =~ ~r/[eE]/ -> {number |> String.replace(~r/[eE]/, ".0e") |> String.to_float(), rest}
      true -> {String.to_integer(number), rest}
    end
  end

  defp skip(<<space, rest::binary>>) when space in ' \t\r\n', do: skip(rest)
  defp skip(text), do: text
end
