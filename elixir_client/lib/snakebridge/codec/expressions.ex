defmodule SnakeBridge.Codec.Expressions do
  @moduledoc """
  Regular expressions between Elixir's `Regex` (PCRE) and Python's `re`.

  Tag `pattern` carries what both read alike: syntax of the common core, and the options u, i, m, s, x (without u it is Python's re.ASCII).
  Any other Regex has the tag `regex`, any other Python pattern becomes a `SnakeBridge.Pattern`; both go back as they came.
  """

  alias SnakeBridge.Pattern

  @ascii 256
  @flags [{"u", 32}, {"i", 2}, {"m", 8}, {"s", 16}, {"x", 64}]

  # One step of the common core: plain characters, escapes that mean the same, simple classes, groups and quantifiers. Not in it: possessive
  # quantifiers and atomic groups, references, conditions, POSIX classes, \z, \h, \p and the like, and {,n}.
  @core ~S"""
  \A(?:
      [^\\\[\](){}|?*+^$.\#\s]
    | [ ]
    | \\[dDwWsSbBnrtf]
    | \\[^A-Za-z0-9\s]
    | \[\^?(?:[^\\\[\]^&|~\-]|\\[dDwWsSnrtf]|\\[^A-Za-z0-9\s]|[A-Za-z0-9]-[A-Za-z0-9])+\]
    | \((?:\?(?::|=|!|P<[A-Za-z_][A-Za-z0-9_]*>))?
    | \)
    | [.|^$]
    | (?<=[^*+?{}(|^$])(?:[*+?]|\{[0-9]{1,4}(?:,[0-9]{0,4})?\})\??(?![*+?{])
  )*\z
  """

  @doc "How a Regex travels, as `SnakeBridge.Codec.Typed` asks it."
  @spec dump(Regex.t()) :: {:ok, [String.t()]} | {:as, String.t(), term()} | :foreign
  def dump(%Regex{source: source} = regex) when is_binary(source) do
    options = options(regex)

    cond do
      options == nil or not String.valid?(source) -> :foreign
      comparable(of_source(source, options)) != comparable({:ok, regex}) -> :foreign
      common?(source, options) -> {:as, "pattern", [source, flags(options)]}
      true -> {:ok, [source, options]}
    end
  end

  def dump(_), do: :foreign

  # Text up to Elixir 1.18, a list of atoms since then.
  defp options(%{opts: options}) when is_binary(options), do: options

  @modifiers [
    caseless: "i",
    multiline: "m",
    dotall: "s",
    unicode: "u",
    extended: "x",
    firstline: "f",
    ungreedy: "U"
  ]

  defp options(%{opts: options}) when is_list(options) do
    letters = for option <- options, do: if(is_atom(option), do: @modifiers[option])
    if nil in letters, do: nil, else: Enum.join(letters)
  end

  defp options(_), do: nil

  # Where the runtime keeps a compiled pattern by reference, equal ones differ in it.
  defp comparable({:ok, %{re_pattern: pattern} = regex}) do
    if is_tuple(pattern) and pattern |> Tuple.to_list() |> Enum.any?(&is_reference/1),
      do: %{regex | re_pattern: nil},
      else: regex
  end

  defp comparable(other), do: other

  @doc "The Regex of a source and options in letters; a pattern where only Python could read it."
  @spec of_regex(String.t(), String.t()) :: {:ok, Regex.t() | Pattern.t()} | :error
  def of_regex(source, options) do
    case of_source(source, options) do
      {:ok, regex} ->
        {:ok, regex}

      :error ->
        if options == known(options) and String.valid?(source),
          do: {:ok, %Pattern{source: source, flags: flags(options)}},
          else: :error
    end
  end

  @letters ~c"uimsxfU"

  defp of_source(source, options) do
    if for(<<letter <- options>>, letter not in @letters, do: letter) == [],
      do: compile(source, options),
      else: :error
  end

  defp compile(source, options) do
    # Copies, because these few bytes must not keep the whole message alive.
    case Regex.compile(:binary.copy(source), :binary.copy(options)) do
      {:ok, regex} -> {:ok, regex}
      {:error, _} -> :error
    end
  rescue
    _ -> :error
  end

  @doc "The Regex that means the same as a Python pattern, or the pattern where there is none."
  @spec of_pattern(Pattern.t()) :: Regex.t() | Pattern.t()
  def of_pattern(%Pattern{source: source, flags: flags} = pattern) do
    options = for {letter, flag} <- @flags, Bitwise.band(flags, flag) != 0, into: "", do: letter

    with true <- is_binary(source) and flags(options) == flags and core?(source, options),
         {:ok, regex} <- of_source(source, options) do
      regex
    else
      _ -> pattern
    end
  end

  # In the order of the letters, so that the flags give back the same Regex.
  defp common?(source, options) do
    options == known(options) and core?(source, options)
  end

  defp known(options), do: for({letter, _} <- @flags, String.contains?(options, letter), into: "", do: letter)

  defp flags(options) do
    known = for {letter, flag} <- @flags, String.contains?(options, letter), do: flag
    Enum.sum(known) + if String.contains?(options, "u"), do: 0, else: @ascii
  end

  # Without u the bytes are matched, which makes a difference for characters of more than one. With m the two disagree on ^ after a newline
  # at the end.
  defp core?(source, options) do
    byte_size(source) <= 4096 and
      (String.contains?(options, "u") or for(<<c <- source>>, c > 127, do: c) == []) and
      not (String.contains?(options, "m") and String.contains?(source, "^")) and
      Regex.match?(core(), source)
  end

  defp core, do: Regex.compile!(@core, "ux")
end
