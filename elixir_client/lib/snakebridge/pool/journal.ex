defmodule SnakeBridge.Pool.Journal do
  @moduledoc """
  Where the workers of a pool record idempotent calls (docs/reliability.md), and the keys of those calls.

  Without a path the journal is a temporary file that lives as long as this BEAM: a key is good after the death of any worker. With one it
  outlives everything: `journal: "/var/lib/my_app/calls.journal"`.
  """
  use GenServer

  alias SnakeBridge.Error
  alias SnakeBridge.Shared.Directory

  @durabilities [:process, :power]
  @longest 255
  # What a payload says of where and how, not of what is called.
  @circumstances ~w(protocol_version min_supported_version session_id idempotent idempotency_key)

  @type key :: [String.t()]

  @doc "The arguments by which an executor of the pool finds its journal. Raises ArgumentError for options that are none."
  @spec arguments(keyword()) :: [String.t()]
  def arguments(options) do
    case settings(options) do
      nil ->
        []

      {path, durability} ->
        ["--journal", path || temporary(options[:name]), "--journal-durability", Atom.to_string(durability)]
    end
  end

  @doc "Whether the pool has a journal."
  @spec kept?(keyword()) :: boolean()
  def kept?(options), do: settings(options) != nil

  defp settings(options) do
    case Keyword.get(options, :journal, true) do
      false -> nil
      true -> {nil, :process}
      path when is_binary(path) -> {Path.expand(path), :process}
      [_ | _] = given -> {given[:path] && Path.expand(given[:path]), durability(given)}
      other -> wrong(other)
    end
  end

  defp durability(given) do
    durability = Keyword.get(given, :durability, :process)

    if durability in @durabilities and Keyword.keys(given) -- [:path, :durability] == [],
      do: durability,
      else: wrong(given)
  end

  @spec wrong(term()) :: no_return()
  defp wrong(given) do
    raise ArgumentError,
          "journal: is #{inspect(given)}; it must be true, false, a path, or [path: path, durability: :process | :power]"
  end

  defp temporary(pool) do
    case GenServer.call(__MODULE__, :directory) do
      {:ok, directory} ->
        Path.join(directory, "#{Base.url_encode64(to_string(pool), padding: false)}.journal")

      {:error, text} ->
        raise ArgumentError,
              "the journal has no place: #{text}; set TMPDIR, or journal: with a path, or journal: false"
    end
  end

  # --- the process: it makes the directory of temporary journals, and removes it when the application stops ---

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    remove_at_exit()
    {:ok, nil}
  end

  # A script or task that ends does not stop its applications.
  defp remove_at_exit do
    unless :persistent_term.get(__MODULE__, false) do
      :persistent_term.put(__MODULE__, true)
      System.at_exit(fn _ -> if Process.whereis(__MODULE__), do: GenServer.call(__MODULE__, :remove) end)
    end
  end

  @impl true
  def handle_call(:directory, _, directory) do
    if directory && File.dir?(directory) do
      {:reply, {:ok, directory}, directory}
    else
      made = Directory.make(System.tmp_dir!())
      {:reply, made, with({:ok, directory} <- made, do: directory, else: (_ -> nil))}
    end
  end

  def handle_call(:remove, _, directory), do: {:reply, if(directory, do: File.rm_rf(directory)), nil}

  @impl true
  def terminate(_, directory), do: if(directory, do: File.rm_rf(directory))

  @doc """
  The key of a call, and a digest by which another call under the same key is noticed: nil for calls that are not idempotent, a key of its own
  for one whose caller gave none.
  """
  @spec key(String.t(), map()) :: key() | nil
  # What a run of a flow has done is recorded in its capsule.
  def key("flow." <> _, _), do: nil

  def key(tool, %{"idempotency_key" => given} = payload) when is_binary(given) do
    asked = {tool, Map.drop(payload, @circumstances)}
    digest = :crypto.hash(:sha256, :erlang.term_to_binary(asked, [:deterministic]))
    [given, Base.encode16(digest, case: :lower)]
  end

  def key(_, %{"idempotent" => true}),
    do: [Base.url_encode64(:crypto.strong_rand_bytes(16), padding: false), ""]

  def key(_, _), do: nil

  @doc "The key as a request has it. One that was made for the call also says which attempt this is: without it, nobody looks for an answer."
  @spec at(key() | nil, pos_integer()) :: list() | nil
  def at([text, ""], attempt), do: [text, "", attempt]
  def at(key, _), do: key

  @doc "A key as the user gives it. Raises ArgumentError."
  @spec check!(term()) :: String.t()
  def check!(key) do
    if is_binary(key) and String.valid?(key) and characters(key) in 1..@longest,
      do: key,
      else:
        raise(
          ArgumentError,
          "idempotency_key is #{inspect(key, limit: 5, printable_limit: 80)}; it must be a text of 1 to #{@longest} characters"
        )
  end

  # As Python counts them: a letter and its accent may be two.
  defp characters(text), do: text |> String.codepoints() |> length()

  @doc "The error of a call with a key in a pool that has no journal."
  @spec missing(atom()) :: Error.t()
  def missing(pool) do
    Error.new(
      :invalid_request,
      "the call has an idempotency_key, but the pool #{inspect(pool)} has no journal; remove journal: false from its options"
    )
  end
end
