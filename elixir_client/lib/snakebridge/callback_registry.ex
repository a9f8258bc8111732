defmodule SnakeBridge.CallbackRegistry do
  @moduledoc """
  The Elixir functions that Python holds, by id. An entry ends with the process that owns the function, with the worker it was sent to, when
  Python has dropped it, and when the message that should have brought it was never sent.

  Lookups and registrations are plain ETS; this process only watches owners.
  """
  use GenServer

  alias SnakeBridge.Error

  @table __MODULE__
  # Of the message that this process is encoding: the worker that gets it, the owner of functions in it, and their ids.
  @sending :snakebridge_sending

  @typedoc "Who holds a function: a worker process, or nil where that is not known."
  @type holder :: {pool :: atom(), index :: pos_integer(), generation :: pos_integer()} | nil

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Encodes a message for a worker. Its functions, registered meanwhile, belong to `owner`; their ids come with the result, to be released if
  the message is not sent after all. If it cannot be encoded they are released here.
  """
  @spec sending(holder(), pid(), (() -> {:ok, body} | {:error, Error.t()})) ::
          {:ok, body, ids :: [String.t()]} | {:error, Error.t()}
        when body: term()
  def sending(holder, owner, encode) do
    # What is encoded may call code of the user, which may send messages of its own.
    outer = Process.put(@sending, {holder, owner, []})

    try do
      with {:ok, body} <- encode.(), do: {:ok, body, registered()}
    catch
      kind, reason ->
        release(registered())
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      {:ok, _, _} = sent ->
        sent

      failed ->
        release(registered())
        failed
    after
      if outer, do: Process.put(@sending, outer), else: Process.delete(@sending)
    end
  end

  defp registered, do: @sending |> Process.get() |> elem(2)

  @doc "Registers a function, of the calling process unless `sending/3` says otherwise; what the wire needs of it."
  @spec register(function()) :: %{id: String.t(), arity: arity(), owner: String.t()}
  def register(function) when is_function(function) do
    {:arity, arity} = Function.info(function, :arity)

    id =
      "cb_" <>
        Integer.to_string(:erlang.unique_integer([:positive])) <>
        "_" <> Integer.to_string(System.os_time(:millisecond))

    {holder, owner, ids} = Process.get(@sending) || {nil, self(), nil}
    if ids, do: Process.put(@sending, {holder, owner, [id | ids]})

    # Watched first: a process that is killed in between leaves nothing. Another owner may have ended already, so it is looked at again.
    GenServer.cast(__MODULE__, {:watch, owner})
    :ets.insert(@table, {id, function, owner, holder})
    if owner != self(), do: GenServer.cast(__MODULE__, {:watch, owner})
    %{id: id, arity: arity, owner: owner |> :erlang.pid_to_list() |> to_string()}
  end

  @spec fetch(String.t()) :: {:ok, function(), owner :: pid()} | :error
  def fetch(id) do
    case :ets.lookup(@table, id) do
      [{_, function, owner, _}] -> {:ok, function, owner}
      [] -> :error
    end
  end

  @doc "The function of a callback record that came back from Python; the record itself when it is gone."
  @spec restore(map()) :: function() | map()
  def restore(%{id: id} = record) do
    case fetch(id) do
      {:ok, function, _} -> function
      :error -> record
    end
  end

  @doc "Forgets functions that Python has dropped, or never got."
  @spec release([String.t()]) :: :ok
  def release(ids), do: Enum.each(ids, &:ets.delete(@table, &1))

  @doc "Forgets the functions that a worker held: it is dead. `:_` as its generation means all of them."
  @spec forget({atom(), pos_integer(), pos_integer() | :_}) :: true
  def forget(holder), do: :ets.match_delete(@table, {:_, :_, :_, holder})

  @doc "How many functions are registered."
  @spec count() :: non_neg_integer()
  def count, do: :ets.info(@table, :size)

  @impl true
  def init(nil) do
    :ets.new(@table, [:named_table, :public, :set, read_concurrency: true, write_concurrency: true])
    {:ok, MapSet.new()}
  end

  @impl true
  def handle_cast({:watch, pid}, watched) do
    if MapSet.member?(watched, pid) do
      {:noreply, watched}
    else
      Process.monitor(pid)
      {:noreply, MapSet.put(watched, pid)}
    end
  end

  @impl true
  def handle_info({:DOWN, _, :process, pid, _}, watched) do
    :ets.match_delete(@table, {:_, :_, pid, :_})
    {:noreply, MapSet.delete(watched, pid)}
  end
end
