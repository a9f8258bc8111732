defmodule SnakeBridge.Generator.Docs do
  @moduledoc """
  The documentation of generated code: what Python's docstrings say, which introspection has turned into Markdown, with how Python writes the
  call, and as source that Elixir reads back unchanged.
  """

  @doc "The text for a module or class."
  @spec module(map()) :: String.t()
  def module(description) do
    what =
      case description do
        %{"class" => nil, "python_module" => module} -> "the Python module `#{module}`"
        %{"class" => class, "python_module" => module} -> "the Python class `#{module}.#{class}`"
      end

    version = if description["version"], do: ", as of version #{description["version"]}", else: ""
    bases = for base <- description["bases"] || [], base not in ["object", "builtins.object"], do: "`#{base}`"

    [
      "SnakeBridge wrapper of #{what}#{version}.",
      if(bases != [], do: "Bases: #{Enum.join(bases, ", ")}."),
      description["doc"],
      if(description["source_url"], do: "[Source](#{description["source_url"]})")
    ]
    |> paragraphs()
  end

  @doc "The text for a function of a module."
  @spec function(map(), map()) :: String.t()
  def function(module, description) do
    doc =
      if description["kind"] == "new" and description["doc"] == module["doc"],
        do: summary(description) <> "\n\nThe module's documentation tells the parameters.",
        else: description["doc"]

    [doc, python(description)] |> paragraphs()
  end

  defp python(%{"kind" => "constant", "python" => name}), do: "Python: the constant `#{name}`."
  defp python(%{"kind" => "property", "python" => name}), do: "Python: the attribute `#{name}`."
  defp python(%{"kind" => "set_property", "python" => name}), do: "Python: sets the attribute `#{name}`."

  defp python(%{"source" => "none", "python" => name}),
    do: "Python: `#{name}`, which does not tell its parameters."

  defp python(%{"signature" => signature, "overloads" => overloads}) do
    forms = if is_list(overloads) and length(overloads) > 1, do: " (#{length(overloads)} overloads)", else: ""
    "Python: `#{String.replace(signature || "", "`", "'")}`#{forms}"
  end

  defp paragraphs(parts) do
    parts
    |> Enum.map(&clean/1)
    |> Enum.reject(&(&1 == ""))
    |> Enum.join("\n\n")
  end

  # Elixir's tokenizer refuses control characters and those that change the direction of text.
  @refused ~r/[\x{0}-\x{8}\x{B}-\x{1F}\x{7F}-\x{9F}\x{202A}-\x{202E}\x{2066}-\x{2069}\x{FEFF}\x{2028}\x{2029}]/u

  defp clean(nil), do: ""

  defp clean(text) do
    text
    |> String.replace(~r/\r\n?/, "\n")
    |> String.replace(@refused, "")
    |> String.replace(~r/[ \t]+$/m, "")
    |> String.trim("\n")
  end

  @doc "The first sentence or line of a description, for lists."
  @spec summary(map()) :: String.t()
  def summary(description) do
    description["doc"]
    |> clean()
    |> String.split("\n\n", parts: 2)
    |> hd()
    |> String.replace(~r/\s+/, " ")
    |> String.trim()
    |> shorten()
  end

  defp shorten(text) when byte_size(text) <= 120, do: text

  defp shorten(text) do
    case Regex.run(~r/\A.{20,119}?\.(?=\s)/us, text) do
      [sentence] -> sentence
      nil -> String.slice(text, 0, 117) <> "..."
    end
  end

  @doc "A text as the source of a string, a heredoc where it has several lines."
  @spec source(String.t()) :: String.t()
  def source(text) do
    cond do
      not String.contains?(text, "\n") and byte_size(text) < 80 ->
        inspect(text, printable_limit: :infinity)

      not String.contains?(text, ~s(""")) ->
        ~s(~S"""\n) <> text <> ~s(\n""")

      not String.contains?(text, "'''") ->
        "~S'''\n" <> text <> "\n'''"

      true ->
        escaped = text |> String.replace("\\", "\\\\") |> String.replace("\#{", "\\\#{")
        ~s("""\n) <> String.replace(escaped, ~s("""), ~S(\"\"\")) <> ~s(\n""")
    end
  end
end
