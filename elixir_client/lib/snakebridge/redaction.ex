defmodule SnakeBridge.Redaction do
  @moduledoc """
  Keeps secrets out of what this library says of a Python process: what stands behind a secret's name (`password='...'`), bearer tokens,
  passwords in URLs, and values of environment variables whose names are those of secrets. The executor does the same with its own errors
  (docs/permissions.md).
  """

  @redacted "[redacted]"
  @names "(?:pg|db|my|mysql)?pass(?:word|wd|phrase)?|pwd|secrets?|token|api[-_]?key|auth(?:orization)?|credentials?|" <>
           "(?:private|access|session|signing|encryption)[-_]?key|client[-_]?secret|cookie|dsn"
  # name = 'value', "name": "value", name=value; what only mentions a token ("unexpected token: }") is left alone.
  @value ~S"""
  \d*["']?\s*(?:=>|=|:)\s*b?)("(?:[^"\\\n]|\\.)+"|'(?:[^'\\\n]|\\.)+'|(?<==)[^\s"'(){}\[\],;&]{4,})
  """
  @assigned Regex.compile!("((?:\\b|_)(?:#{@names})" <> String.trim(@value), "i")
  @name Regex.compile!("(?:^|[^a-z])(?:#{@names})(?:$|[^a-z])", "i")
  @bearer ~r/\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+\/=-]{6,}/
  @url ~r{(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+(@)}i
  @shortest 6

  @doc "A text without the secrets in it."
  @spec text(String.t()) :: String.t()
  def text(text) do
    text
    |> without(variables())
    |> then(&Regex.replace(@assigned, &1, fn _, name, value -> name <> quoted(value) end))
    |> then(&Regex.replace(@url, &1, "\\1#{@redacted}\\2"))
    |> then(&Regex.replace(@bearer, &1, "\\1\\2#{@redacted}"))
  end

  @doc "Whether what has this name is likely to be a secret."
  @spec secret?(String.t()) :: boolean()
  def secret?(name), do: Regex.match?(@name, Regex.replace(~r/(?<=[a-z0-9])(?=[A-Z])/, name, "_"))

  defp without(text, []), do: text
  defp without(text, values), do: String.replace(text, values, @redacted)

  # Longest first: one may be a part of another.
  defp variables do
    values =
      for {name, value} <- System.get_env(),
          byte_size(value) >= @shortest,
          secret?(name),
          uniq: true,
          do: value

    Enum.sort_by(values, &byte_size/1, :desc)
  end

  defp quoted(<<quote, _::binary>>) when quote in [?", ?'], do: <<quote, @redacted, quote>>
  defp quoted(_), do: @redacted
end
