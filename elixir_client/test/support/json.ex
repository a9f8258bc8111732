defmodule SnakeBridge.Test.Json do
  @moduledoc """
  JSON for tests, which must not depend on a hex package: integers of any size stay integers, -0.0 keeps its sign. The texts are our own,
  so it raises `MatchError` or `CaseClauseError` for what is no JSON.
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

  @doc "The text of nil, booleans, numbers, texts, lists, and maps with texts as keys."
  @spec encode!(term()) :: iodata()
  def encode!(nil), do: "null"
  def encode!(atom) when is_boolean(atom), do: Atom.to_string(atom)
  def encode!(number) when is_number(number), do: to_string(number)
  def encode!(text) when is_binary(text), do: [?", escaped(text, []), ?"]
  def encode!([]), do: "[]"
  def encode!(list) when is_list(list), do: [?[, list |> Enum.map(&encode!/1) |> Enum.intersperse(?,), ?]]

  def encode!(map) when is_map(map) and not is_struct(map) do
    fields = for {key, value} when is_binary(key) <- map, do: [encode!(key), ?:, encode!(value)]
    [?{, Enum.intersperse(fields, ?,), ?}]
  end

  defp escaped(<<char, rest::binary>>, done) when char < 0x20 or char in [?", ?\\],
    do: escaped(rest, [done, "\\u00", char |> Integer.to_string(16) |> String.pad_leading(2, "0")])

  defp escaped(<<char::utf8, rest::binary>>, done), do: escaped(rest, [done | <<char::utf8>>])
  defp escaped("", done), do: done
end
