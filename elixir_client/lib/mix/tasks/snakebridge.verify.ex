defmodule Mix.Tasks.Snakebridge.Verify do
  @shortdoc "Checks that Python is what the generated wrappers were made from"

  @moduledoc """
  Compares `snakebridge.lock`, `snakebridge.manifest.exs` and the generated modules with what the present Python says, and exits with status 1
  where they differ. Meant for CI.

      mix snakebridge.verify [--python PATH] [--strict]

  Another platform is told and not counted, for a lock is shared by the machines of a team; with `--strict` it counts.
  """
  use Mix.Task

  # In an umbrella each app with the snakebridge compiler is visited.
  @recursive true

  alias SnakeBridge.Generator.{Introspection, Lock, Manifest, Plan, Project, State, Verify}

  @switches [python: :string, strict: :boolean]

  @impl true
  def run(arguments), do: if(Project.wrapped?(), do: here(arguments), else: :ok)

  defp here(arguments) do
    {options, _} = OptionParser.parse!(arguments, strict: @switches)
    Mix.Task.run("loadconfig")
    settings = Project.settings(Keyword.take(options, [:python]))
    manifest = fetch(Manifest.read(settings.manifest))
    lock = fetch(Lock.read(settings.lock))

    if manifest.libraries == %{} or Lock.empty?(lock),
      do:
        Mix.raise(
          "there is no snakebridge.manifest.exs or no snakebridge.lock to verify; run mix snakebridge.gen and commit them"
        )

    {wanted, _, _} = Project.wanted(settings, %State{})
    bare = Enum.map(settings.libraries, &%{&1 | symbols: [], all: false})
    question = Plan.with_manifest(bare, manifest)
    answer = fetch(Introspection.run(settings, question, &Mix.shell().info/1))
    described = Map.new(answer["modules"], &{&1["elixir"], &1})

    findings =
      case Verify.compare(manifest, lock, answer) ++ unmade(wanted, manifest) do
        [] -> Verify.files(described, settings.out, settings.format)
        findings -> findings
      end

    tell(findings, options, map_size(manifest.functions))
  end

  # Used by the sources and never generated.
  defp unmade(wanted, manifest) do
    for library <- Plan.missing(wanted, manifest, %{}),
        line <-
          for(
            {module, function, false} <- library.uses,
            do: "#{module}.#{function} is used and not generated"
          ) ++
            for(symbol <- library.symbols, do: "#{library.name}.#{symbol} is configured and not generated") ++
            if(library.all,
              do: ["#{library.name} is configured with all: true and not generated so"],
              else: []
            ),
        do: {:drift, line}
  end

  defp tell(findings, options, count) do
    {drift, notes} = Enum.split_with(findings, fn {kind, _} -> kind == :drift or options[:strict] == true end)
    for {_, line} <- notes, do: Mix.shell().info("note: " <> line)

    if drift == [] do
      Mix.shell().info("Python is as snakebridge.lock says; all #{count} functions are as generated.")
    else
      for {_, line} <- drift, do: Mix.shell().error("  " <> line)

      Mix.raise(
        "the environment drifted from snakebridge.lock and the manifest (#{length(drift)} differences); mix snakebridge.setup brings back what they say, " <>
          "mix snakebridge.gen takes over what is there"
      )
    end
  end

  defp fetch({:ok, value}), do: value
  defp fetch({:error, message}), do: Mix.raise(message)
end
