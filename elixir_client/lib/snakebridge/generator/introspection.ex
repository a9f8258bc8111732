defmodule SnakeBridge.Generator.Introspection do
  @moduledoc "Asks Python to describe libraries: one run of `bridge_adapter.tools.introspect`, with the question and the answer in files."

  alias SnakeBridge.Codec.Packed
  alias SnakeBridge.Generator.{Library, Settings}

  @doc """
  The answer for these libraries. What the Python prints on the way is handed to `say`.
  """
  @spec run(Settings.t(), [Library.t()], (String.t() -> term())) :: {:ok, map()} | {:error, String.t()}
  def run(%Settings{} = settings, libraries, say) do
    request = %{"format" => 1, "libraries" => Enum.map(libraries, &Library.request/1)}

    with {:ok, python} <- Settings.executable(settings), {:ok, packed} <- Packed.encode(request) do
      in_directory(fn directory ->
        [question, answer] = Enum.map(["question", "answer"], &Path.join(directory, &1))
        File.write!(question, packed)
        arguments = ["-P", "-m", "bridge_adapter.tools.introspect", question, answer]

        options = [stderr_to_stdout: true, cd: settings.directory, env: environment(settings)]
        {bytes, status} = System.cmd(python, arguments, options)
        output = readable(bytes)
        if status == 0 and String.trim(output) != "", do: say.(String.trim_trailing(output))
        read(status, answer, output, python, libraries)
      end)
    else
      {:error, %{message: message}} -> {:error, message}
      {:error, message} -> {:error, message}
    end
  end

  defp environment(settings), do: for({name, value} <- settings.env, do: {to_string(name), value})

  defp read(0, answer, _, _, _) do
    with {:ok, bytes} <- File.read(answer), {:ok, %{"format" => 1} = term} <- Packed.decode(bytes) do
      {:ok, term}
    else
      _ ->
        {:error,
         "the Python half answered in a form that this version does not read; install the same version of both halves (mix snakebridge.setup)"}
    end
  end

  defp read(status, _, output, python, libraries) do
    remedy =
      if output =~ "No module named" and output =~ "bridge_adapter",
        do:
          "\nIt lacks the Python half of SnakeBridge: run mix snakebridge.setup, or name another Python in config :snakebridge, python: ...",
        else: ""

    {:error,
     "#{python} could not describe #{Enum.map_join(libraries, ", ", & &1.name)} (exit status #{status}):\n" <>
       "#{last_lines(output)}#{remedy}"}
  end

  # A traceback of a hanging or crashing import is longer than most.
  defp last_lines(output) do
    case String.split(output, "\n", trim: true) do
      [] -> "(it said nothing; what ends the process on import?)"
      lines -> lines |> Enum.take(-30) |> Enum.join("\n")
    end
  end

  # Libraries print what they like, in any encoding.
  defp readable(bytes), do: to_string(%SnakeBridge.Text{wtf8: bytes})

  defp in_directory(fun) do
    directory =
      Path.join(
        System.tmp_dir!(),
        "snakebridge-gen-" <> Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
      )

    File.mkdir!(directory)
    File.chmod!(directory, 0o700)

    try do
      fun.(directory)
    after
      File.rm_rf(directory)
    end
  end
end
