defmodule SnakeBridge.CallbackRegistry do
  @moduledoc """
  The Elixir functions that Python holds, by id. An entry ends with the process that registered it, or when Python has dropped it.

  Lookups and registrations are plain ETS; this process only watches owners.
  """
  use GenServer

  @table __MODULE__

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Registers a function for the calling process; what the wire needs of it."
  @spec register(function()) :: %{id: String.t(), arity: arity(), owner: String.t()}
  def register(function) when is_function(function) do
    {:arity, arity} = Function.info(function, :arity)

    id =
      "cb_" <>
        Integer.to_string(:erlang.unique_integer([:positive])) <>
        "_" <> Integer.to_string(System.os_time(:millisecond))

    :ets.insert(@table, {id, function, self()})
    GenServer.cast(__MODULE__, {:watch, self()})
    %{id: id, arity: arity, owner: self() |> :erlang.pid_to_list() |> to_string()}
  end

  @spec fetch(String.t()) :: {:ok, function()} | :error
  def fetch(id) do
    case :ets.lookup(@table, id) do
      [{_, function, _}] -> {:ok, function}
      [] -> :error
    end
  end

  @doc "The function of a callback record that came back from Python; the record itself when it is gone."
  @spec restore(map()) :: function() | map()
  def restore(%{id: id} = record) do
    case fetch(id) do
      {:ok, function} -> function
      :error -> record
    end
  end

  @doc "Forgets functions that Python has dropped."
  @spec release([String.t()]) :: :ok
  def release(ids), do: Enum.each(ids, &:ets.delete(@table, &1))

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
    :ets.match_delete(@table, {:_, :_, pid})
    {:noreply, MapSet.delete(watched, pid)}
  end
end
