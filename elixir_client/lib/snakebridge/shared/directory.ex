defmodule SnakeBridge.Shared.Directory do
  @moduledoc """
  The private directory of segments: in /dev/shm where that is a tmpfs, else among the temporary files. Its name says which BEAM made it, so
  that the next one can remove what a killed BEAM has left.
  """

  import Bitwise

  @prefix "snakebridge-"

  @doc "Makes a directory in `base`, mode 0700 (`nil`: where it is best), after removing those of BEAMs that are no more."
  @spec make(String.t() | nil) :: {:ok, String.t()} | {:error, String.t()}
  def make(nil) do
    bases = if tmpfs?("/dev/shm"), do: ["/dev/shm", System.tmp_dir!()], else: [System.tmp_dir!()]

    Enum.reduce_while(bases, nil, fn base, _ ->
      case make(base) do
        {:ok, path} -> {:halt, {:ok, path}}
        error -> {:cont, error}
      end
    end)
  end

  def make(base) do
    path = Path.join(base, @prefix <> Enum.join(identity() ++ [random()], "-"))

    # Somebody may have put a file in before the mode was set.
    with :ok <- File.mkdir(path),
         :ok <- File.chmod(path, 0o700),
         {:ok, %{mode: mode, uid: uid}} <- File.lstat(path),
         true <- (mode &&& 0o777) == 0o700,
         {:ok, []} <- File.ls(path) do
      sweep(base, uid)
      {:ok, path}
    else
      {:error, reason} -> {:error, "no directory can be made in #{base}: #{:file.format_error(reason)}"}
      _ -> {:error, "the directory #{path} is not private"}
    end
  end

  # Only a tmpfs keeps segments in memory alone.
  defp tmpfs?(place) do
    case File.read("/proc/mounts") do
      {:ok, mounts} -> mounts =~ ~r"^\S+ #{Regex.escape(place)} tmpfs "m
      _ -> false
    end
  end

  defp sweep(base, uid) do
    for name <- ls(base), String.starts_with?(name, @prefix), abandoned?(name) do
      path = Path.join(base, name)

      case File.lstat(path) do
        {:ok, %{type: :directory, uid: ^uid}} -> File.rm_rf(path)
        _ -> :ok
      end
    end
  end

  defp ls(base) do
    case File.ls(base) do
      {:ok, names} -> names
      _ -> []
    end
  end

  # Whether the BEAM that made a directory is gone: there is no process of its pid, or one that began at another time. A BEAM of another
  # container, whose pids mean nothing here, is left alone.
  defp abandoned?(@prefix <> rest) do
    [space | _] = identity()

    case String.split(rest, "-") do
      [^space, pid, started, _random] -> started(pid) != started
      _ -> false
    end
  end

  # Which BEAM this is: its space of pids, its pid, and when it began.
  defp identity, do: [pid_space(), System.pid(), started(System.pid())]

  defp pid_space do
    case File.read_link("/proc/self/ns/pid") do
      {:ok, link} -> String.replace(link, ~r"\D", "")
      _ -> "0"
    end
  end

  defp started(pid) do
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} ->
        # The name of the program, which may hold anything, ends with the last parenthesis.
        stat |> String.split(")") |> List.last() |> String.split() |> Enum.at(19)

      _ ->
        if File.dir?("/proc/self"), do: nil, else: if(running?(pid), do: "0")
    end
  end

  defp running?(pid) do
    pid =~ ~r/^[1-9][0-9]*$/ and
      match?({_, 0}, System.cmd("/bin/sh", ["-c", "kill -0 #{pid} 2>/dev/null"]))
  end

  defp random, do: Base.encode16(:crypto.strong_rand_bytes(6), case: :lower)
end
