defmodule SnakeBridge.Pool.Policy do
  @moduledoc """
  The option `policy:` of a pool: what may be called in its workers (docs/permissions.md), as the arguments that an executor takes.

  `:default`, `:open`, `:listed`, the path of a TOML file, or a list with `base:` (one of these three), or `file:`, and `allow:` and `deny:`.
  """

  @bases [:default, :open, :listed]

  @doc "The arguments of an executor. Raises ArgumentError for an option that is none; what the entries say is for the executor to judge."
  @spec arguments(keyword()) :: [String.t()]
  def arguments(options) do
    case Keyword.get(options, :policy) do
      nil -> []
      base when base in @bases -> ["--policy", Atom.to_string(base)]
      path when is_binary(path) -> ["--policy", Path.expand(path)]
      given -> from_list(given)
    end
  end

  defp from_list(given) do
    unless Keyword.keyword?(given) and Keyword.keys(given) -- [:base, :file, :allow, :deny] == [] and
             not (Keyword.has_key?(given, :base) and Keyword.has_key?(given, :file)),
           do: wrong(given)

    base =
      case {given[:base], given[:file]} do
        {nil, nil} -> []
        {base, nil} when base in @bases -> ["--policy", Atom.to_string(base)]
        {nil, path} when is_binary(path) -> ["--policy", Path.expand(path)]
        _ -> wrong(given)
      end

    base ++ rules(given, :allow) ++ rules(given, :deny)
  end

  defp rules(given, name) do
    entries = Keyword.get(given, name, [])
    unless is_list(entries) and Enum.all?(entries, &is_binary/1), do: wrong(given)
    Enum.map(entries, &"--#{name}=#{&1}")
  end

  @spec wrong(term()) :: no_return()
  defp wrong(given) do
    raise ArgumentError,
          "policy: is #{inspect(given)}; it must be :default, :open, :listed, the path of a TOML file, or a list such as " <>
            ~s([base: :listed, allow: ["numpy.*"], deny: ["numpy.load"]])
  end
end
