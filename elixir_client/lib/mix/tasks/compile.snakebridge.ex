defmodule Mix.Tasks.Compile.Snakebridge do
  @shortdoc "Generates the Python wrappers that the project uses"

  @moduledoc """
  Generates wrapper modules for the Python functions and classes that the project's sources call.

      # mix.exs
      def project, do: [compilers: [:snakebridge] ++ Mix.compilers(), ...]

      # config/config.exs
      config :snakebridge, libraries: [:json, numpy: [include: ["linalg"]]]

  Python is started only when a source uses something that is not generated yet. Unknown names are warnings where they are used.

  ## Options

    * `--force` - asks Python again for all that the sources use now, and forgets the rest
    * `--no-python` - never starts Python: what is not generated yet is an error, and `--force` asks for nothing
    * `--warnings-as-errors` - unknown names are errors

  `SNAKEBRIDGE_OFFLINE=1` in the environment does what `--no-python` does.
  """
  use Mix.Task.Compiler

  # In an umbrella it runs in each app that has it among its compilers.
  @recursive true

  alias Mix.Task.Compiler.Diagnostic
  alias SnakeBridge.Generator
  alias SnakeBridge.Generator.{Project, Sources, State}

  @switches [force: :boolean, python: :boolean, warnings_as_errors: :boolean]

  @impl true
  def run(arguments) do
    {options, _, _} = OptionParser.parse(arguments, switches: @switches)
    settings = Project.settings()
    before = Project.state(settings)
    {libraries, state, changed} = Project.wanted(settings, before)

    if libraries == [] do
      {:noop, []}
    else
      if changed or options[:force] == true or not settled?(before, settings),
        do: generate(settings, libraries, state, options),
        else: finish(:noop, settled(state), options)
    end
  end

  @impl true
  def manifests, do: [Project.settings().state]

  @impl true
  def clean, do: File.rm(Project.settings().state)

  # Nothing was left open, and the files are as they were left.
  defp settled?(%State{sources: sources, rendered: rendered, kept: kept} = state, settings) do
    sources != %{} and kept == kept(settings) and State.stale(state) == [] and
      File.exists?(settings.manifest) == File.exists?(settings.lock) and
      Enum.all?(rendered, fn {path, {stat, _}} -> State.stat(path) == stat end)
  end

  defp kept(settings), do: Map.new([settings.manifest, settings.lock], &{&1, State.stat(&1)})

  defp generate(settings, libraries, state, options) do
    python? = Keyword.get(options, :python, System.get_env("SNAKEBRIDGE_OFFLINE") in [nil, "", "0"])

    run = [
      # What is not to be asked again is kept as it is.
      mode: if(options[:force] == true and python?, do: :prune, else: :fill),
      python: python?,
      say: &Mix.shell().info/1
    ]

    case Generator.run(settings, libraries, state, run) do
      {:ok, result, state} ->
        if result.written != [], do: Mix.shell().info("Generated #{count(result.written)} of Python wrappers")

        diagnostics =
          problems(result.problems, libraries, state) ++ drift(result.differences) ++ settled(state)

        State.write(State.left(state, result.open, kept(settings)), settings.state)
        finish(if(result.written ++ result.removed == [], do: :noop, else: :ok), diagnostics, options)

      {:error, message} ->
        finish(:error, [diagnostic(:error, message, nil)], options)
    end
  end

  defp count([_]), do: "1 file"
  defp count(files), do: "#{length(files)} files"

  defp finish(status, diagnostics, options) do
    diagnostics = Enum.uniq(diagnostics)
    Enum.each(diagnostics, &print/1)

    failed =
      Enum.any?(diagnostics, fn diagnostic ->
        diagnostic.severity == :error or
          (options[:warnings_as_errors] == true and diagnostic.severity == :warning)
      end)

    {if(failed, do: :error, else: status), diagnostics}
  end

  # --- diagnostics ---

  # Unknown uses are told by `settled/1`, in this run and in those that do not ask Python.
  defp problems(problems, libraries, state) do
    for problem <- problems, not (problem["kind"] == "unknown") do
      severity = if problem["kind"] == "import", do: :error, else: :warning
      diagnostic(severity, problem["message"] <> remedy(problem), place(problem, libraries, state))
    end
  end

  defp remedy(%{"kind" => "import", "message" => message}) do
    if message =~ "install it",
      do:
        " (config :snakebridge, python: names the Python; mix snakebridge.setup makes one as the lock says)",
      else: ""
  end

  defp remedy(_), do: ""

  defp place(%{"use" => %{"module" => module, "function" => function}}, _, state),
    do: List.first(Sources.places(state.sources, module, function))

  # Where a library that cannot be imported is used first.
  defp place(%{"kind" => "import", "library" => name}, libraries, state) do
    with %{uses: [{module, function, _} | _]} <- Enum.find(libraries, &(&1.name == name)),
         do: List.first(Sources.places(state.sources, module, function)),
         else: (_ -> nil)
  end

  defp place(_, _, _), do: nil

  defp settled(state) do
    Enum.flat_map(state.settled, fn
      {_, ""} ->
        []

      {{:use, module, function}, message} ->
        for place <- Sources.places(state.sources, module, function),
            do: diagnostic(:warning, message, place)

      {{:symbol, _, _}, message} ->
        [
          diagnostic(
            :warning,
            message <> " (it is named in config :snakebridge, libraries: [...])",
            nil
          )
        ]
    end)
  end

  defp drift([]), do: []

  defp drift(lines) do
    message =
      "Python is not as snakebridge.lock says: #{Enum.join(lines, ", ")}. Run mix snakebridge.setup to have what it says, or " <>
        "mix snakebridge.gen to take over what is there"

    [diagnostic(:warning, message, nil)]
  end

  defp diagnostic(severity, message, place) do
    {file, line} = place || {Path.expand("mix.exs"), 0}

    %Diagnostic{
      compiler_name: "SnakeBridge",
      severity: severity,
      message: message,
      file: file,
      position: line
    }
  end

  defp print(%Diagnostic{} = diagnostic) do
    place =
      if diagnostic.position == 0,
        do: "",
        else: "\n  #{Path.relative_to_cwd(diagnostic.file)}:#{diagnostic.position}"

    IO.puts(:stderr, [
      if(diagnostic.severity == :error,
        do: IO.ANSI.format([:red, "error: "]),
        else: IO.ANSI.format([:yellow, "warning: "])
      ),
      diagnostic.message,
      place,
      "\n"
    ])
  end
end
