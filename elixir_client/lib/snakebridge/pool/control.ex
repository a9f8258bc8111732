defmodule SnakeBridge.Pool.Control do
  @moduledoc """
  The control connection of a worker: cancellations, questions about what runs, functions that Python calls from threads of its own, messages
  that it sends by itself, and what its threads say when their call has ended. User code never blocks it, on either side.
  """
  use GenServer

  alias SnakeBridge.{CallbackRegistry, Lane, Messages, Output}
  alias SnakeBridge.Exchange.{Nesting, Request, Serving}
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Output.Late
  alias SnakeBridge.Pool.Heartbeat
  alias SnakeBridge.Shared.Keeper

  @stats_timeout 2_000

  @doc "Connects to a worker; with a heartbeat, the worker's process is told when the Python process has stopped answering."
  def start_link(worker, heartbeat \\ nil) do
    case GenServer.start_link(__MODULE__, {worker, heartbeat}) do
      {:ok, pid} ->
        {:ok, pid}

      {:error, %SnakeBridge.Error{} = error} ->
        {:error, error}

      {:error, reason} ->
        {:error, SnakeBridge.Error.new(:worker_start, "no control connection: #{inspect(reason)}")}
    end
  end

  @doc "Interrupts a request."
  def cancel(control, connection, request, reason),
    do: GenServer.cast(control, {:cancel, connection, request, reason})

  @doc "Asks what runs; `to` gets `{:stats, generation, tag, {:ok, map} | :no_answer}`."
  def ask_stats(control, to, tag), do: GenServer.cast(control, {:stats, to, tag})

  @doc "Says that sessions which hold nothing go elsewhere from now on; `to` gets `{:kept_by, the ids of the others | :no_answer}`."
  def leave(control, to), do: GenServer.cast(control, {:leave, to})

  @doc "Asks for a session that is to go on in another process; `from` is answered whether it may, because nothing of it runs (`:no_answer`: nobody knows)."
  @spec give(pid(), String.t(), GenServer.from()) :: :ok
  def give(control, session, from), do: GenServer.cast(control, {:give, session, from})

  @doc "Asks whether no process maps a segment any more, and gives it a new name; `to` gets `{:recycled, segment, boolean}`."
  def recycle(control, segment, new_name, to),
    do: GenServer.cast(control, {:recycle, to, segment, new_name})

  @impl true
  def init({worker, heartbeat}) do
    case Connection.open(
           worker.address,
           worker.token,
           :control,
           Output.features(worker.output),
           worker.connect
         ) do
      {:ok, connection} ->
        {:ok, late} = Late.start_link(worker)
        :ok = Connection.activate(connection)
        if worker.shared, do: Keeper.offer(self())
        if heartbeat, do: Process.send_after(self(), :beat, heartbeat.interval)

        {:ok,
         %{
           worker: worker,
           connection: connection,
           late: late,
           # characters that nobody has heard
           unsaid: 0,
           asked: %{},
           # request of Python => monitor of the process that answers it
           answering: %{},
           next: 1,
           heartbeat: heartbeat,
           # whether anything has come since the last beat
           heard: true,
           options: Request.options(worker.pool)
         }}

      {:error, error} ->
        {:stop, error}
    end
  end

  @impl true
  def handle_cast({:cancel, connection, request, reason}, state) do
    Connection.send(state.connection, Lane.notification("cancel", [connection, request, reason]))
    {:noreply, state}
  end

  def handle_cast({:stats, to, tag}, state) do
    Process.send_after(self(), {:unanswered, state.next}, @stats_timeout)
    {:noreply, ask("stats", nil, {:stats, to, tag}, state)}
  end

  def handle_cast({:leave, to}, state), do: {:noreply, ask("leave", nil, {:leave, to}, state)}

  def handle_cast({:give, session, from}, state), do: {:noreply, ask("give", session, {:give, from}, state)}

  def handle_cast({:recycle, to, segment, new_name}, state),
    do: {:noreply, ask("recycle", [segment, new_name], {:recycle, to, segment}, state)}

  defp ask(method, params, asked, state) do
    {:ok, body} = Lane.request(state.next, method, params, state.options)
    Connection.send(state.connection, body)
    %{state | next: state.next + 1, asked: Map.put(state.asked, state.next, asked)}
  end

  @impl true
  def handle_info({tcp, _, body}, state) when tcp in [:tcp, :ssl] do
    state = %{state | heard: true}

    case Lane.parse(body, state.options) do
      {:ok, message} -> {:noreply, handle(message, state)}
      {:error, error} -> unreadable(Lane.peek(body), error, state)
    end
  end

  def handle_info({:unanswered, id}, state), do: {:noreply, answered(id, :no_answer, state)}

  def handle_info(:beat, state) do
    {verdict, heartbeat} = Heartbeat.beat(state.heartbeat, state.heard, Heartbeat.ticks(state.worker.os_pid))
    state = %{state | heartbeat: heartbeat, heard: false}

    case verdict do
      :dead ->
        send(state.worker.pid, {:silent, state.worker.generation})
        {:noreply, state}

      verdict ->
        Process.send_after(self(), :beat, heartbeat.interval)
        # One question is enough for one that does not answer.
        {:noreply, if(verdict == :alive, do: ask("ping", nil, :ping, state), else: state)}
    end
  end

  def handle_info({:answered, id}, state) do
    {monitor, answering} = Map.pop(state.answering, id)
    Process.demonitor(monitor, [:flush])
    {:noreply, %{state | answering: answering}}
  end

  # A process that runs a function has been killed, by a link of the function's, before it answered.
  def handle_info({:DOWN, monitor, :process, pid, reason}, state) do
    Nesting.forget(pid)
    {id, _} = Enum.find(state.answering, fn {_, of} -> of == monitor end)
    # It may have been dead before it was watched.
    why = if reason == :noproc, do: "", else: ": #{inspect(reason, limit: 20)}"
    text = "the process that ran the Elixir function has died#{why}"
    Connection.send(state.connection, Lane.refusal(id, "callback_error", text))
    {:noreply, %{state | answering: Map.delete(state.answering, id)}}
  end

  def handle_info({closed, _}, state) when closed in [:tcp_closed, :ssl_closed], do: {:stop, :normal, state}

  def handle_info({error, _, reason}, state) when error in [:tcp_error, :ssl_error],
    do: {:stop, reason, state}

  def handle_info(_, state), do: {:noreply, state}

  # What user code sent must not end the connection of everybody.
  defp unreadable(:garbage, error, state), do: {:stop, error, state}
  defp unreadable({:response, id}, _, state), do: {:noreply, answered(id, :no_answer, state)}

  defp unreadable(other, error, state) do
    Serving.unreadable(other, error, state.connection)
    {:noreply, state}
  end

  defp handle({:response, id, nil, answer}, state), do: answered(id, {:ok, answer}, state)
  defp handle({:response, id, _, _}, state), do: answered(id, :no_answer, state)

  defp handle({:notification, "released", ids}, state) do
    CallbackRegistry.release(ids)
    state
  end

  defp handle({:notification, "message", [to, message]}, state) do
    Messages.deliver(to, message)
    state
  end

  defp handle({:notification, "output", [number, call, session, entries] = said}, state) do
    told = if state.unsaid > 0, do: [number, call, session, [["dropped", state.unsaid] | entries]], else: said

    if Late.say(state.late, told),
      do: %{state | unsaid: 0},
      else: %{state | unsaid: state.unsaid + Late.size(said)}
  end

  defp handle({:request, id, "callback", params}, state) do
    %{worker: worker, connection: connection} = state
    control = self()

    {:ok, pid} =
      Task.Supervisor.start_child(SnakeBridge.Tasks, fn ->
        # The task acts for the call that brought the function: what it calls runs inside that call's session.
        Nesting.on_behalf(worker, params)
        Serving.answer(id, params, connection, worker)
        send(control, {:answered, id})
      end)

    %{state | answering: Map.put(state.answering, id, Process.monitor(pid))}
  end

  defp handle({:request, _, _, _} = request, state) do
    Serving.refuse(request, state.connection)
    state
  end

  defp handle(_, state), do: state

  defp answered(id, answer, state) do
    case Map.pop(state.asked, id) do
      {nil, _} ->
        state

      {:ping, asked} ->
        %{state | asked: asked}

      {{:stats, to, tag}, asked} ->
        send(to, {:stats, state.worker.generation, tag, answer})
        %{state | asked: asked}

      {{:leave, to}, asked} ->
        send(to, {:kept_by, with({:ok, sessions} <- answer, do: sessions)})
        %{state | asked: asked}

      {{:give, from}, asked} ->
        GenServer.reply(from, with({:ok, given?} <- answer, do: given?))
        %{state | asked: asked}

      {{:recycle, to, segment}, asked} ->
        send(to, {:recycled, segment, answer == {:ok, true}})
        %{state | asked: asked}
    end
  end
end
