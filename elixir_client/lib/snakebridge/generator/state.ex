defmodule SnakeBridge.Generator.State do
  @moduledoc """
  What the generator remembers between runs, in the build directory: the uses found in each source, the descriptions that Python gave, the files
  written, what Python said it does not have, how manifest and lock
  were left, and the Python files of the project's own. All of it can be found out again; it only saves work.
  """

  @version 3

  defstruct version: @version,
            fingerprint: nil,
            sources: %{},
            described: %{},
            rendered: %{},
            settled: %{},
            kept: %{},
            own: %{}

  @type stat :: {mtime :: integer(), size :: non_neg_integer()}

  @type t :: %__MODULE__{
          version: pos_integer(),
          fingerprint: binary() | nil,
          sources: %{Path.t() => {stat(), binary(), [SnakeBridge.Generator.Scanner.Use.t()]}},
          described: %{String.t() => map()},
          rendered: %{Path.t() => {stat(), key :: binary()}},
          settled: %{term() => String.t()},
          kept: %{Path.t() => stat() | nil},
          own: %{(library :: String.t()) => %{Path.t() => stat() | nil}}
        }

  @doc "Reads a state; one that is absent, broken or of another version is empty."
  @spec read(Path.t() | nil) :: t()
  def read(nil), do: %__MODULE__{}

  def read(path) do
    with {:ok, bytes} <- File.read(path),
         %__MODULE__{version: @version} = state <- :erlang.binary_to_term(bytes) do
      state
    else
      _ -> %__MODULE__{}
    end
  rescue
    ArgumentError -> %__MODULE__{}
  end

  @doc "The libraries that are the project's own and whose Python files are others than when they were described."
  @spec stale(t()) :: [String.t()]
  def stale(%__MODULE__{own: own}) do
    for {library, files} <- own, Enum.any?(files, fn {path, stat} -> stat(path) != stat end), do: library
  end

  @doc """
  Notes how the files of the project's own libraries were when Python began to describe them, at a time in seconds. One that has been written since
  then may not be what was described: it counts as changed.
  """
  @spec noted(%{String.t() => [Path.t()]}, integer()) :: %{String.t() => %{Path.t() => stat() | nil}}
  def noted(own, began) do
    meanwhile = began..System.os_time(:second)

    Map.new(own, fn {library, paths} ->
      {library, Map.new(paths, &{&1, unless_since(stat(&1), meanwhile)})}
    end)
  end

  defp unless_since({mtime, _} = stat, meanwhile), do: if(mtime in meanwhile, do: nil, else: stat)
  defp unless_since(nil, _), do: nil

  @doc "The state that a run leaves, with how manifest and lock are now. A question that is open is asked again by the next run: no source counts as seen."
  @spec left(t(), open? :: boolean(), %{Path.t() => stat() | nil}) :: t()
  def left(%__MODULE__{} = state, true, _), do: %{state | sources: %{}}
  def left(%__MODULE__{} = state, false, kept), do: %{state | kept: kept}

  @doc "Writes a state."
  @spec write(t(), Path.t() | nil) :: :ok
  def write(_, nil), do: :ok

  def write(%__MODULE__{} = state, path) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, :erlang.term_to_binary(state, compressed: 1))
  end

  @doc "What tells that a file changed, without reading it."
  @spec stat(Path.t()) :: stat() | nil
  def stat(path) do
    case File.stat(path, time: :posix) do
      {:ok, %{type: :regular, mtime: mtime, size: size}} -> {mtime, size}
      _ -> nil
    end
  end
end
