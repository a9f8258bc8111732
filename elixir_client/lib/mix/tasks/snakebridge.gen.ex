defmodule Mix.Tasks.Snakebridge.Gen do
  @shortdoc "Generates Elixir modules for Python libraries"

  @moduledoc """
  Generates Elixir modules for Python libraries, one for each Python module and class.

      mix snakebridge.gen numpy json sklearn.linear_model
      mix snakebridge.gen numpy --only array,mean,linalg.norm
      mix snakebridge.gen json --all
      mix snakebridge.gen

  A named library adds to what is generated: its own module, with `--only` these symbols, with `--all` its submodules, too. Without names, all
  that the configuration and the sources ask for, and all that was generated before, is described anew by the present Python, whose versions go
  into `snakebridge.lock`.

  ## Options

    * `--only a,b.c` - symbols, as Python paths inside the library; with several libraries write `numpy.array`
    * `--all` - the whole public surface, submodules included
    * `--prune` - forgets what neither the names given here nor the configuration and the sources ask for
    * `--out DIR` - the folder of the modules (`lib/snakebridge_generated`, `config :snakebridge, generated: ...`)
    * `--python PATH` - the Python that has the libraries
    * `--dry-run` - says what would be generated and writes nothing
  """
  use Mix.Task

  # In an umbrella each app with the snakebridge compiler is visited.
  @recursive true

  alias SnakeBridge.Generator
  alias SnakeBridge.Generator.{Library, Project, State, Writer}

  @switches [
    only: :string,
    all: :boolean,
    prune: :boolean,
    out: :string,
    python: :string,
    dry_run: :boolean
  ]

  @impl true
  def run(arguments), do: if(Project.wrapped?(), do: here(arguments), else: :ok)

  defp here(arguments) do
    {options, names} = OptionParser.parse!(arguments, strict: @switches)

    if names == [] and (options[:only] || options[:all]),
      do:
        Mix.raise(
          "--only and --all are about the libraries that are named: mix snakebridge.gen numpy --only array"
        )

    Mix.Task.run("loadconfig")
    settings = Project.settings(Keyword.take(options, [:out, :python]))
    {configured, state, _} = Project.wanted(settings, Project.state(settings))
    libraries = join(configured, named(names, options))

    run = [
      mode: mode(names, options),
      dry: options[:dry_run] == true,
      say: &Mix.shell().info/1
    ]

    case Generator.run(settings, libraries, state, run) do
      {:ok, result, state} ->
        unless options[:dry_run],
          do: State.write(State.left(state, result.open, state.kept), settings.state)

        tell(
          %{result | problems: Enum.reject(result.problems, &elsewhere?(&1, libraries, result))},
          settings,
          options
        )

      {:error, message} ->
        Mix.raise(message)
    end
  end

  # What is named is asked of Python even when the rest is there.
  defp mode([], options), do: if(options[:prune], do: :prune, else: :refresh)
  defp mode(_, options), do: if(options[:prune], do: :prune, else: :fill)

  defp named(names, options) do
    only = options[:only] && String.split(options[:only], ",", trim: true)

    for name <- names do
      [library] = Library.parse([name])

      symbols =
        cond do
          only -> Enum.flat_map(only, &symbol(&1, name, names))
          options[:all] -> []
          true -> [""]
        end

      %{library | all: options[:all] == true, symbols: symbols}
    end
  end

  # `--only numpy.array` with several libraries: it is numpy's alone.
  defp symbol(symbol, name, names) do
    case Enum.find(names, &String.starts_with?(symbol, &1 <> ".")) do
      ^name -> [String.replace_prefix(symbol, name <> ".", "")]
      nil -> [symbol]
      _ -> []
    end
  end

  # A library that the configuration has, too, keeps its module and streams.
  defp join(configured, named) do
    {known, new} = Enum.split_with(named, fn library -> Enum.any?(configured, &(&1.name == library.name)) end)

    for library <- configured do
      case Enum.find(known, &(&1.name == library.name)) do
        nil -> library
        more -> %{library | all: library.all or more.all, symbols: library.symbols ++ more.symbols}
      end
    end ++ new
  end

  # With several libraries a symbol without its library's name is looked for in all of them.
  defp elsewhere?(%{"kind" => "unknown", "use" => nil, "symbol" => symbol}, libraries, result) do
    asking = for library <- libraries, symbol in library.symbols, do: library.name
    failing = for %{"kind" => "unknown", "symbol" => ^symbol, "library" => name} <- result.problems, do: name
    asking -- failing != []
  end

  defp elsewhere?(_, _, _), do: false

  defp tell(result, settings, options) do
    Enum.each(result.problems, &Mix.shell().error("#{&1["kind"]}: #{&1["message"]}"))

    if options[:dry_run] do
      files = Writer.files(result.described, settings.out)

      for {module, description} <- Enum.sort(result.described) do
        functions = Enum.map_join(description["functions"], ", ", & &1["elixir"])
        Mix.shell().info("#{module} (#{Path.relative_to_cwd(files[module])}): #{functions}")
      end
    else
      Enum.each(result.written, &Mix.shell().info("* wrote #{Path.relative_to_cwd(&1)}"))
      Enum.each(result.removed, &Mix.shell().info("* removed #{Path.relative_to_cwd(&1)}"))
      if result.written ++ result.removed == [], do: Mix.shell().info("Everything is up to date.")
    end

    failed = for %{"kind" => kind} = problem <- result.problems, kind in ["import", "unknown"], do: problem

    if failed != [],
      do: Mix.raise("#{length(failed)} of the names asked for could not be described (see above)")
  end
end
