defmodule SnakeBridge.Generator.Lock do
  @moduledoc """
  The Python environment that the wrappers were generated from (`snakebridge.lock`): versions of Python, of this library's Python half and of the
  packages behind the libraries. Kept in version control; `mix snakebridge.verify` holds an environment to it, `mix snakebridge.setup` makes one.
  """

  alias SnakeBridge.Generator.TermFile

  defstruct python: nil, implementation: nil, platform: nil, adapter: nil, packages: %{}

  @type t :: %__MODULE__{
          python: String.t() | nil,
          implementation: String.t() | nil,
          platform: String.t() | nil,
          adapter: String.t() | nil,
          packages: %{String.t() => String.t()}
        }

  @comment "The Python environment behind the generated wrappers. `mix snakebridge.setup` makes it, `mix snakebridge.gen` writes this file anew."
  @plain [:python, :implementation, :platform, :adapter]

  @doc "Reads a lock; an absent one is empty."
  @spec read(Path.t()) :: {:ok, t()} | {:error, String.t()}
  def read(path) do
    with {:ok, entries} <- TermFile.read(path), do: {:ok, Enum.reduce(entries, %__MODULE__{}, &add/2)}
  end

  defp add({key, value}, lock) when key in @plain, do: Map.put(lock, key, value)
  defp add({:package, name, version}, lock), do: put_in(lock.packages[name], version)
  defp add(_, lock), do: lock

  @doc "Writes a lock; true when the file changed."
  @spec write(t(), Path.t()) :: boolean()
  def write(%__MODULE__{} = lock, path) do
    plain = for key <- @plain, value = Map.fetch!(lock, key), do: {key, value}
    packages = for {name, version} <- lock.packages, do: {:package, name, version}
    TermFile.put(path, TermFile.text(@comment, plain ++ packages))
  end

  @doc "The lock of the environment that answered."
  @spec new(map()) :: t()
  def new(%{"python" => python, "adapter" => adapter, "packages" => packages}) do
    %__MODULE__{
      python: python["version"],
      implementation: python["implementation"],
      platform: python["platform"],
      adapter: adapter,
      packages: packages
    }
  end

  @doc "True when nothing is locked yet."
  @spec empty?(t()) :: boolean()
  def empty?(%__MODULE__{} = lock), do: lock.python == nil

  @doc "Adds the packages that are not locked yet; what is locked stays as it is."
  @spec extend(t(), t()) :: t()
  def extend(%__MODULE__{} = lock, %__MODULE__{} = present) do
    if empty?(lock), do: present, else: %{lock | packages: Map.merge(present.packages, lock.packages)}
  end

  @doc """
  How an environment differs from the lock, as lines to read. The platform is a note, for a lock is shared by the machines of a team.
  """
  @spec differences(t(), t()) :: [{:drift | :note, String.t()}]
  def differences(%__MODULE__{} = lock, %__MODULE__{} = present) do
    plain =
      for {key, name, kind} <- [
            {:python, "Python", :drift},
            {:implementation, "implementation", :drift},
            {:adapter, "bridge-adapter", :drift},
            {:platform, "platform", :note}
          ],
          was = Map.fetch!(lock, key),
          is = Map.fetch!(present, key),
          was != is,
          do: {kind, "#{name} #{was} -> #{is || "(absent)"}"}

    packages =
      for {name, was} <- Enum.sort(lock.packages), present.packages[name] != was do
        {:drift, "#{name} #{was} -> #{present.packages[name] || "(not installed)"}"}
      end

    plain ++ packages
  end
end
