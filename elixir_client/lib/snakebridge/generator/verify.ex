defmodule SnakeBridge.Generator.Verify do
  @moduledoc """
  Compares what is in version control (lock, manifest, generated files) with what the present Python says. Pure but for reading the files; the
  findings are lines to read.
  """

  alias SnakeBridge.Generator.{Lock, Manifest, Renderer, Writer}

  @typedoc "`:drift` fails the verification, `:note` does not."
  @type finding :: {:drift | :note, String.t()}

  @doc "How the environment and its symbols differ from lock and manifest."
  @spec compare(Manifest.t(), Lock.t(), map()) :: [finding()]
  def compare(%Manifest{} = manifest, %Lock{} = lock, answer) do
    imports = for %{"kind" => "import", "message" => message} <- answer["problems"], do: {:drift, message}

    present = Manifest.new(%{}, [], Map.new(answer["modules"], &{&1["elixir"], &1}))
    environment = for {kind, line} <- Lock.differences(lock, Lock.new(answer)), do: {kind, line}
    imports ++ environment ++ symbols(manifest, present, failed(answer))
  end

  # A library that cannot be imported is one finding, not one for each of its functions.
  defp failed(answer), do: for(%{"kind" => "import", "library" => name} <- answer["problems"], do: name)

  defp symbols(manifest, present, failed) do
    keys =
      (Map.keys(manifest.functions) ++ Map.keys(present.functions))
      |> Enum.uniq()
      |> Enum.reject(fn {module, _} ->
        {library, _, _} = manifest.modules[module] || present.modules[module]
        library in failed
      end)
      |> Enum.sort()

    for key <- keys,
        line = difference(key, manifest.functions[key], present.functions[key]),
        do: {:drift, line}
  end

  defp difference(_, same, same), do: nil
  defp difference(key, nil, {_, _, signature, _}), do: "+ #{name(key)}: #{signature}"
  defp difference(key, {_, _, signature, _}, nil), do: "- #{name(key)}: #{signature}"

  defp difference(key, {_, _, same, _}, {_, _, same, _}),
    do: "~ #{name(key)}: #{same}: types or documentation changed"

  defp difference(key, {_, _, was, _}, {_, _, is, _}), do: "~ #{name(key)}: #{was}\n    now #{is}"

  defp name({module, function}), do: "#{module}.#{function}"

  @doc "Generated files that are not what these descriptions give."
  @spec files(%{String.t() => map()}, Path.t(), keyword()) :: [finding()]
  def files(described, out, format) do
    paths = Writer.files(described, out)
    classes = Writer.classes(described)

    for {module, path} <- Enum.sort(paths),
        text = Renderer.render(described[module], Map.get(classes, module, []), format),
        File.read(path) != {:ok, text} do
      what = if File.exists?(path), do: "is not what would be generated (was it edited?)", else: "is missing"

      {:drift, "#{Path.relative_to_cwd(path)} #{what}"}
    end
  end
end
