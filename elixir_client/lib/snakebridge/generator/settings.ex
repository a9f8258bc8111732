defmodule SnakeBridge.Generator.Settings do
  @moduledoc """
  Where a project keeps what is generated, which Python describes its libraries, and which libraries these are. Paths are absolute.
  """

  alias SnakeBridge.Generator.{Library, Writer}
  alias SnakeBridge.Pool.Python

  @enforce_keys [:directory, :out, :manifest, :lock]
  defstruct [
    :directory,
    :out,
    :manifest,
    :lock,
    :state,
    :python,
    env: [],
    format: [],
    sources: [],
    libraries: []
  ]

  @type t :: %__MODULE__{
          directory: Path.t(),
          out: Path.t(),
          manifest: Path.t(),
          lock: Path.t(),
          state: Path.t() | nil,
          python: String.t() | nil,
          env: [{String.t(), String.t() | nil}],
          format: keyword(),
          sources: [Path.t()],
          libraries: [Library.t()]
        }

  @doc """
  The settings of a project in `directory`, from what `config :snakebridge` says. `overrides` are `:out`, `:python`, `:state`, `:sources` and
  `:format`.
  """
  @spec new(Path.t(), keyword(), keyword()) :: t()
  def new(directory, config, overrides \\ []) do
    default_pool = config |> Keyword.get(:pools, []) |> Keyword.get(:default, [])
    out = overrides[:out] || config[:generated] || "lib/snakebridge_generated"

    %__MODULE__{
      directory: directory,
      out: Path.expand(out, directory),
      manifest: Path.join(directory, "snakebridge.manifest.exs"),
      lock: Path.join(directory, "snakebridge.lock"),
      state: overrides[:state],
      python: overrides[:python] || config[:python] || default_pool[:python],
      # What the workers import, introspection has to find, too.
      env: Keyword.get(default_pool, :env, []),
      format: overrides[:format] || [],
      sources: overrides[:sources] || [],
      libraries: Library.parse(config[:libraries] || [])
    }
  end

  @doc "The Python that describes the libraries, as an absolute path."
  @spec executable(t()) :: {:ok, String.t()} | {:error, String.t()}
  def executable(%__MODULE__{} = settings) do
    options = if settings.python, do: [python: settings.python], else: []

    with {:error, message} <- Python.executable(options),
         do: {:error, String.replace(message, "pools: [default: [python: ...]]", "python: ...")}
  end

  @doc "What of the settings decides what is generated."
  @spec fingerprint(t()) :: binary()
  def fingerprint(%__MODULE__{} = settings) do
    {Writer.renderer(), settings.out, settings.python, settings.env, settings.format, settings.libraries}
    |> :erlang.term_to_binary()
    |> :erlang.md5()
  end
end
