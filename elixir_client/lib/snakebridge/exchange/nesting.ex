defmodule SnakeBridge.Exchange.Nesting do
  @moduledoc """
  Which call a process is in. A call made inside a callback goes over the connection of the call around it; one made by another process, or
  on another connection, names that call as its parent, so that it runs inside the same session.
  """
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.{Messages, Output}

  # {:callback, process} => the calls in whose callbacks it is
  @in_use :snakebridge_in_use
  @stack :snakebridge_stack
  @parent :snakebridge_parent
  @session :snakebridge_session

  @typedoc "One life of one worker."
  @type key :: {pool :: atom(), index :: pos_integer(), generation :: pos_integer()}

  @type frame :: %{worker: key(), connection: Connection.t(), id: pos_integer()}

  @doc false
  def table, do: @in_use

  @spec key(map()) :: key()
  def key(worker), do: {worker.pool, worker.index, worker.generation}

  @doc "Runs `wait`, which serves a connection for a request: what this process asks of that worker meanwhile is nested in it."
  @spec within(map(), Connection.t(), pos_integer(), (() -> result)) :: result when result: term()
  def within(worker, connection, id, wait) do
    outer = Process.get(@stack, [])
    Process.put(@stack, [%{worker: key(worker), connection: connection, id: id} | outer])

    try do
      wait.()
    after
      Process.put(@stack, outer)
      Messages.hand_over()
    end
  end

  @doc "Runs the function of a callback: processes that it starts find the call that it is made in."
  @spec in_callback(map(), term(), (() -> result)) :: result when result: term()
  def in_callback(worker, call, function) do
    Messages.hand_over()
    marker = {{:callback, self()}, key(worker), call}
    :ets.insert(@in_use, marker)

    try do
      function.()
    after
      :ets.delete_object(@in_use, marker)
    end
  end

  @doc "Makes the calling process act for the call that a `callback` request belongs to."
  @spec on_behalf(map(), map()) :: :ok
  def on_behalf(worker, params) do
    if params["call"], do: Process.put(@parent, {key(worker), params["call"]})
    if params["session"] not in [nil, ""], do: Process.put(@session, params["session"])
    Output.as_caller(params["caller"])
    :ok
  end

  @doc "The innermost call of this process on that worker that waits in a callback."
  @spec enclosing(map()) :: frame() | nil
  def enclosing(worker) do
    case Process.get(@stack) do
      stack when stack in [nil, []] -> nil
      stack -> Enum.find(stack, &(&1.worker == key(worker)))
    end
  end

  @doc "Whether this process, or the one that started this task, runs a function for a call on any worker."
  @spec nested?() :: boolean()
  def nested? do
    Process.get(@stack, []) != [] or Process.get(@parent) != nil or
      Enum.any?(Process.get(:"$callers", []), &:ets.member(@in_use, {:callback, &1}))
  end

  @doc "For work on another connection: the call whose callback it is done in, by this process or by the one that started this task."
  @spec parent(map()) :: list() | nil
  def parent(worker) do
    key = key(worker)

    case {Process.get(@parent), enclosing(worker)} do
      {{^key, call}, _} -> call
      {_, %{connection: connection, id: id}} -> [connection.id, id]
      _ -> Enum.find_value(Process.get(:"$callers", []), &calling_back(&1, key))
    end
  end

  defp calling_back(pid, key) do
    Enum.find_value(:ets.lookup(@in_use, {:callback, pid}), fn {_, of, call} -> if of == key, do: call end)
  end

  @doc "Forgets a process that has died."
  @spec forget(pid()) :: true
  def forget(pid), do: :ets.delete(@in_use, {:callback, pid})
end
