defmodule Mix.Tasks.Snakebridge.Setup do
  @shortdoc "Makes the Python environment that snakebridge.lock describes"

  @moduledoc """
  Makes a virtual environment and installs what `snakebridge.lock` says, in exactly these versions, and the Python half of this library from the
  dependency's own folder. What is there already is left alone.

      mix snakebridge.setup [--venv DIR] [--python PATH] [--dry-run]

  The environment is `.venv`, or `config :snakebridge, venv: DIR`; `--python` is the Python to make it with (`python3`). Without a lock
  there is nothing to install but the Python half.
  """
  use Mix.Task

  # In an umbrella each app with the snakebridge compiler is visited.
  @recursive true

  alias SnakeBridge.Generator.{Environment, Lock, Project}

  @switches [venv: :string, python: :string, dry_run: :boolean]

  @impl true
  def run(arguments), do: if(Project.wrapped?(), do: here(arguments), else: :ok)

  defp here(arguments) do
    {options, _} = OptionParser.parse!(arguments, strict: @switches)
    Mix.Task.run("loadconfig")
    venv = Path.expand(options[:venv] || Application.get_env(:snakebridge, :venv, ".venv"))
    lock = fetch(Lock.read(Project.settings().lock))
    base = options[:python] || "python3"

    installed =
      if File.exists?(Environment.python(venv)) do
        check_version(venv, lock)
        fetch(Environment.installed(Environment.python(venv), ["bridge-adapter" | Map.keys(lock.packages)]))
      else
        step(Environment.create(venv, executable(base)), options)
        unless options[:dry_run], do: check_version(venv, lock)
        %{}
      end

    case Environment.install(venv, lock, installed, adapter()) do
      [] -> Mix.shell().info("#{Path.relative_to_cwd(venv)} is as snakebridge.lock says.")
      steps -> Enum.each(steps, &step(&1, options))
    end

    if Lock.empty?(lock),
      do:
        Mix.shell().info(
          "There is no snakebridge.lock yet: install the libraries you need with #{Environment.python(venv)} -m pip install ..., then run mix snakebridge.gen."
        )
  end

  # A lock cannot install a Python.
  defp check_version(_, %Lock{python: nil}), do: :ok

  defp check_version(venv, lock) do
    {version, 0} =
      System.cmd(Environment.python(venv), ["-I", "-c", "import platform; print(platform.python_version())"])

    unless String.trim(version) == lock.python do
      Mix.shell().info(
        "note: snakebridge.lock was made with Python #{lock.python}, #{Path.relative_to_cwd(venv)} has #{String.trim(version)}; " <>
          "to have that one, remove the folder and give --python"
      )
    end
  end

  defp executable(name) do
    System.find_executable(name) ||
      Mix.raise("there is no executable #{name}; install Python 3.11 or newer, or give --python PATH")
  end

  # The Python half lies beside the Elixir half.
  defp adapter do
    Mix.Project.deps_paths()[:snakebridge] || File.cwd!()
  end

  defp step({what, program, arguments}, options) do
    Mix.shell().info("* #{what}")

    unless options[:dry_run] do
      {_, status} = System.cmd(program, arguments, into: IO.stream(), stderr_to_stdout: true)

      if status != 0,
        do:
          Mix.raise(
            "#{Enum.join([program | arguments], " ")} ended with status #{status}; see its output above"
          )
    end
  end

  defp fetch({:ok, value}), do: value
  defp fetch({:error, message}), do: Mix.raise(message)
end
