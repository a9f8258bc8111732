defmodule SnakeBridge.Generator.Environment do
  @moduledoc """
  A virtual environment with what the lock says. What is to be done is decided purely from the lock and what is installed; every step is one
  command.
  """

  alias SnakeBridge.Generator.Lock

  # Answers a line for each package: its name and version, or its name alone where it is not there. Names are compared as pip does.
  @probe """
  import sys
  from importlib import metadata
  for name in sys.argv[1:]:
      try:
          print(name, metadata.version(name))
      except metadata.PackageNotFoundError:
          print(name)
  """

  @type step :: {description :: String.t(), program :: String.t(), arguments :: [String.t()]}

  @doc "The versions of packages that are installed beside a Python."
  @spec installed(String.t(), [String.t()]) :: {:ok, %{String.t() => String.t()}} | {:error, String.t()}
  def installed(python, names) do
    case System.cmd(python, ["-I", "-c", @probe | names], stderr_to_stdout: true) do
      {output, 0} ->
        {:ok,
         for(
           line <- String.split(output, "\n", trim: true),
           [name, version] <- [String.split(line)],
           into: %{},
           do: {name, version}
         )}

      {output, status} ->
        {:error, "#{python} cannot be asked what is installed (exit status #{status}):\n#{output}"}
    end
  rescue
    error in ErlangError -> {:error, "#{python} cannot be started: #{Exception.message(error)}"}
  end

  @doc "The Python of a virtual environment."
  @spec python(Path.t()) :: Path.t()
  def python(venv), do: Path.join([venv, "bin", "python"])

  @doc "The step that makes the environment."
  @spec create(Path.t(), String.t()) :: step()
  def create(venv, base), do: {"make #{Path.relative_to_cwd(venv)}", base, ["-m", "venv", venv]}

  @doc "The steps that bring the packages to what the lock says. `adapter` is the folder of this library's Python half."
  @spec install(Path.t(), Lock.t(), %{String.t() => String.t()}, Path.t()) :: [step()]
  def install(venv, %Lock{} = lock, installed, adapter) do
    wanted =
      for {name, version} <- Enum.sort(lock.packages), installed[name] != version, do: "#{name}==#{version}"

    half =
      if installed["bridge-adapter"] == nil or
           (lock.adapter != nil and installed["bridge-adapter"] != lock.adapter),
         do: [adapter],
         else: []

    for {what, packages} <- [
          {"install #{Enum.join(wanted, " ")}", wanted},
          {"install bridge-adapter from #{Path.relative_to_cwd(adapter)}", half}
        ],
        packages != [],
        do: {what, python(venv), ["-m", "pip", "install", "--disable-pip-version-check" | packages]}
  end
end
