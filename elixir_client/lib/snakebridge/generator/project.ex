defmodule SnakeBridge.Generator.Project do
  @moduledoc "The Mix project that the generator works for: its settings, its sources, and the place for what is remembered between runs."

  alias SnakeBridge.Generator.{Library, Settings, Sources, State}

  @doc "True where the wrappers of this project are: in an umbrella, whose apps are visited one after the other, in those with the compiler."
  @spec wrapped?() :: boolean()
  def wrapped?, do: not Mix.Task.recursing?() or :snakebridge in (Mix.Project.config()[:compilers] || [])

  @doc "The settings of the current Mix project. `overrides` as for `SnakeBridge.Generator.Settings.new/3`."
  @spec settings(keyword()) :: Settings.t()
  def settings(overrides \\ []) do
    directory = File.cwd!()
    config = Application.get_all_env(:snakebridge)

    defaults = [
      state: Path.join(Mix.Project.manifest_path(), "compile.snakebridge"),
      sources: sources(directory, config),
      format: format(directory)
    ]

    Settings.new(directory, config, Keyword.merge(defaults, overrides))
  rescue
    error in ArgumentError -> Mix.raise(Exception.message(error))
  end

  # The project's own folders, and those that `config :snakebridge, sources: [...]` adds: other apps of an umbrella.
  defp sources(directory, config) do
    own = Mix.Project.config()[:elixirc_paths] || ["lib"]
    more = Enum.flat_map(config[:sources] || [], &Path.wildcard(Path.expand(&1, directory)))
    Enum.uniq(Enum.map(own, &Path.expand(&1, directory)) ++ more)
  end

  # As `mix format` of the project would write it; what else the formatter can be told does not concern generated code.
  defp format(directory) do
    with {:ok, text} <- File.read(Path.join(directory, ".formatter.exs")),
         {:ok, ast} <- Code.string_to_quoted(text),
         options when is_list(options) <- ast,
         length when is_integer(length) <- Keyword.get(options, :line_length) do
      [line_length: length]
    else
      _ -> []
    end
  end

  @doc """
  The libraries of the configuration with what the sources use of them, the state with the sources as they are now, and whether they changed.
  """
  @spec wanted(Settings.t(), State.t()) :: {[Library.t()], State.t(), boolean()}
  def wanted(%Settings{libraries: libraries} = settings, state) do
    files = Sources.files(settings.sources, settings.out)
    {scanned, changed} = Sources.scan(files, state.sources, Enum.map(libraries, & &1.root))
    uses = for {_, {_, _, uses}} <- scanned, use <- uses, do: use
    by_library = Enum.group_by(uses, &owner(libraries, &1.module))

    libraries =
      for library <- libraries do
        found = for use <- Map.get(by_library, library.name, []), do: {use.module, use.function, use.optional}

        %{library | uses: if(library.only, do: [], else: sharpen(found))}
      end

    {libraries, %{state | sources: scanned}, changed}
  end

  defp owner(libraries, module) do
    with %Library{name: name} <- Library.owner(libraries, module), do: name
  end

  # What is used for certain in one place is no guess in another.
  defp sharpen(uses) do
    certain = for {module, function, false} <- uses, into: MapSet.new(), do: {module, function}

    uses
    |> Enum.reject(fn {module, function, optional} ->
      optional and MapSet.member?(certain, {module, function})
    end)
    |> Enum.uniq()
    |> Enum.sort()
  end

  @doc "The state of the project, empty when the settings are others now."
  @spec state(Settings.t()) :: State.t()
  def state(%Settings{} = settings) do
    fingerprint = Settings.fingerprint(settings)

    case State.read(settings.state) do
      %State{fingerprint: ^fingerprint} = state ->
        state

      state ->
        %State{fingerprint: fingerprint, described: state.described, rendered: state.rendered, own: state.own}
    end
  end
end
