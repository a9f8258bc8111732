defmodule SnakeBridge.Batcher do
  @moduledoc """
  Joins concurrent calls of one model function into one Python call along axis 0, and splits what it answers: a model that is asked for 32 rows
  at once takes far less time than for one row 32 times.

      children = [
        {SnakeBridge.Session, name: MyApp.Model, init: fn -> SnakeBridge.call("my_models", "load", ["prices.pkl"]) end},
        {SnakeBridge.Batcher, name: MyApp.Prices, session: MyApp.Model, method: :predict, max_batch: 64, max_delay: 5}
      ]

      {:ok, prices} = SnakeBridge.Batcher.call(MyApp.Prices, [rows])

  The first call waits for others: until `max_batch` rows are there, at most `max_delay` ms, and until the batch before has been answered. A call's
  first argument is an array or a list of rows, and its answer has as many rows.

  ## What is called

    * `session:` and `method:` - a method of the state of a `SnakeBridge.Session`, as in `SnakeBridge.Session.call/4`
    * `sessions:` and `method:` - the same, of a `SnakeBridge.SessionPool`, which takes as many batches at once as it has sessions
    * `module:` and `function:` - a function of a Python module; with `session:` or `sessions:` inside of that session, else in `pool:`
    * `args:`, `kwargs:` - arguments of every call, before those of the callers; `args:` may be a function of the session's state:
      `args: fn model -> [model.params] end`

  ## Options

    * `:max_batch` (32) - how many rows go together at most (`count: :calls`: how many calls). A call with more rows goes alone
    * `:max_delay` (5) - ms that a call waits for others
    * `:join` (0) - the position of the argument that is joined, or several; the other arguments of calls that are joined are equal
    * `:pad_to` - `:powers_of_two` or a list of sizes: a batch is filled up to the next one with copies of its last row, for functions that are
      compiled for each size, as JAX does
    * `:max_in_flight` - batches that run at once (1; of `sessions:` their number)
    * `:max_queue` (10 000) - calls that may wait; more are refused
    * `:name`

  ## What the function must be

  Rows must not depend on each other, and calling it again must do no harm: a batch that fails is halved until the bad input stands alone, so that only
  its caller gets the error. If the Python process itself dies, the calls of the batch are made one by one afterwards. It answers an array or a list with one row
  for each of the input, or a tuple, map or list of such; anything else is an error.

  Inputs of different element type or trailing shape are never joined: they are called in groups.
  """
  use GenServer

  alias SnakeBridge.{Error, Pool, SessionPool, Tensor, ZeroCopyRef}
  alias SnakeBridge.Batcher.Runner

  @options [
    :name,
    :session,
    :sessions,
    :method,
    :module,
    :function,
    :pool,
    :args,
    :kwargs,
    :max_batch,
    :count,
    :max_delay,
    :join,
    :pad_to,
    :max_in_flight,
    :max_queue
  ]

  @doc false
  def child_spec(options),
    do: %{id: {__MODULE__, options[:name] || make_ref()}, start: {__MODULE__, :start_link, [options]}}

  @doc "Starts a batcher."
  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options) do
    options = checked(options)
    {name, options} = Keyword.pop(options, :name)
    options = Keyword.put(options, :label, if(name, do: inspect(name), else: "without a name"))
    GenServer.start_link(__MODULE__, options, if(name, do: [name: name], else: []))
  end

  @doc """
  Calls the function with these arguments, together with others. `timeout:` (ms, or `:infinity`) includes waiting.
  """
  @spec call(GenServer.server(), [term()], keyword()) :: {:ok, term()} | {:error, Error.t()}
  # length/1 in the guard: an improper list is the caller's mistake, and must not end the batcher.
  def call(batcher, args, opts \\ []) when is_list(args) and length(args) >= 0 do
    deadline = Pool.deadline(opts[:timeout] || Application.get_env(:snakebridge, :timeout, 120_000))

    try do
      # What is left, as clocks of nodes differ.
      left = Pool.left(deadline)
      GenServer.call(batcher, {:call, args, left}, left)
    catch
      :exit, {:timeout, _} ->
        {:error,
         Error.new(
           :timeout,
           "the batcher #{inspect(batcher)} did not answer in time; give a longer timeout:",
           %{outcome: :unknown}
         )}

      :exit, {:noproc, _} ->
        {:error,
         Error.new(
           :unavailable,
           "no batcher runs as #{inspect(batcher)}: start it with {SnakeBridge.Batcher, ...} in a supervision tree",
           %{outcome: :not_started}
         )}

      :exit, {reason, _} ->
        {:error,
         Error.new(
           :unavailable,
           "the batcher #{inspect(batcher)} ended before it answered: #{inspect(reason, limit: 5)}; " <>
             "it is not known whether the call took effect",
           %{outcome: :unknown}
         )}
    end
  end

  @doc "As `call/3`; raises."
  @spec call!(GenServer.server(), [term()], keyword()) :: term()
  def call!(batcher, args, opts \\ []) do
    case call(batcher, args, opts) do
      {:ok, value} -> value
      {:error, error} -> raise error
    end
  end

  # --- options ---

  defp checked(options) do
    for key <- Keyword.keys(options),
        key not in @options,
        do: raise(ArgumentError, "a batcher has no option #{inspect(key)}; see SnakeBridge.Batcher")

    options =
      Keyword.merge(
        [args: [], kwargs: [], max_batch: 32, count: :rows, max_delay: 5, join: 0, max_queue: 10_000],
        options
      )

    for key <- [:max_batch, :max_queue, :max_in_flight],
        value = options[key],
        not (is_integer(value) and value > 0),
        do: raise(ArgumentError, "#{key}: must be an integer > 0, not #{inspect(value)}")

    unless is_integer(options[:max_delay]) and options[:max_delay] >= 0,
      do:
        raise(
          ArgumentError,
          "max_delay: must be a number of milliseconds >= 0, not #{inspect(options[:max_delay])}"
        )

    unless options[:count] in [:rows, :calls],
      do: raise(ArgumentError, "count: must be :rows or :calls, not #{inspect(options[:count])}")

    join = List.wrap(options[:join])

    for {key, rule, fine?} <- [
          {:join, "a position >= 0 or a list of them",
           join != [] and Enum.all?(join, &(is_integer(&1) and &1 >= 0))},
          {:pad_to, ":powers_of_two or a list of sizes > 0", padding?(options[:pad_to])},
          {:args, "a list, or a function of the state that returns one",
           is_list(options[:args]) or is_function(options[:args], 1)},
          {:kwargs, "a keyword list", Keyword.keyword?(options[:kwargs])}
        ],
        not fine?,
        do: raise(ArgumentError, "#{key}: must be #{rule}, not #{inspect(options[key])}")

    Keyword.merge(options, of: of(options), join: join)
  end

  defp padding?(sizes) when sizes in [nil, :powers_of_two], do: true
  defp padding?([_ | _] = sizes), do: Enum.all?(sizes, &(is_integer(&1) and &1 > 0))
  defp padding?(_), do: false

  defp of(options) do
    named = Keyword.take(options, [:session, :sessions, :method, :module, :function])

    case for {key, value} <- named, value != nil, into: %{}, do: {key, value} do
      %{session: session, method: _} ->
        {:session, session}

      %{session: session, module: _, function: _} ->
        {:session, session}

      %{sessions: sessions, method: _} ->
        {:sessions, sessions}

      %{sessions: sessions, module: _, function: _} ->
        {:sessions, sessions}

      %{module: _, function: _} ->
        :module

      _ ->
        raise ArgumentError, "a batcher needs session: or sessions: with method:, or module: with function:"
    end
  end

  # --- the process ---

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    with {:ok, most} <- in_flight(options) do
      state = %{
        options: options,
        idle: for(_ <- 1..most, do: Runner.start(options)),
        # runner => the entries it has, and the monitors of those callers that still live
        busy: %{},
        queue: :queue.new(),
        waiting: 0,
        rows: 0,
        timer: nil
      }

      {:ok, state}
    end
  end

  defp in_flight(options) do
    case {options[:max_in_flight], options[:of]} do
      {nil, {:sessions, pool}} -> {:ok, SessionPool.size(pool)}
      {most, _} -> {:ok, most || 1}
    end
  catch
    :exit, _ ->
      {_, pool} = options[:of]

      {:stop,
       Error.new(
         :unavailable,
         "no pool of sessions runs as #{inspect(pool)}: start it before its batcher, or say max_in_flight:",
         %{outcome: :not_started}
       )}
  end

  @impl true
  def handle_call({:call, args, left}, from, state) do
    if state.waiting >= state.options[:max_queue] do
      {:reply, {:error, refusal(state)}, state}
    else
      rows = if state.options[:count] == :calls, do: 1, else: rows(args, hd(state.options[:join]))
      came = System.monotonic_time()
      entry = %{from: from, args: args, rows: rows, came: came, deadline: Pool.deadline(left)}
      queue = :queue.in(entry, state.queue)
      {:noreply, advance(%{state | queue: queue, waiting: state.waiting + 1, rows: state.rows + rows})}
    end
  end

  # From a process that takes it for something else, which must not end it for everybody.
  def handle_call(_, _from, state) do
    text =
      "#{state.options[:label]} is a batcher, which does not answer that: call it with SnakeBridge.Batcher"

    {:reply, {:error, Error.new(:invalid_request, text)}, state}
  end

  @impl true
  def handle_info(:due, state), do: {:noreply, advance(%{state | timer: nil})}

  def handle_info({:idle, runner}, state) when is_map_key(state.busy, runner) do
    {_, state} = done(state, runner)
    {:noreply, advance(%{state | idle: [runner | state.idle]})}
  end

  # A caller died while its batch ran. When nobody is left who waits for it, it is given up like any call whose caller died; else those who
  # come next would wait for its deadline.
  def handle_info({:DOWN, monitor, :process, _, _}, state) do
    case Enum.find(state.busy, fn {_, batch} -> is_map_key(batch.callers, monitor) end) do
      {runner, %{callers: callers}} when map_size(callers) == 1 ->
        {_, state} = done(state, runner)
        Process.unlink(runner)
        Process.exit(runner, :kill)
        {:noreply, state |> replaced() |> advance()}

      {runner, _} ->
        {_, state} = pop_in(state.busy[runner].callers[monitor])
        {:noreply, state}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:EXIT, runner, reason}, state) when is_map_key(state.busy, runner) do
    {entries, state} = done(state, runner)
    text = "the process that made the batch ended: #{inspect(reason, limit: 10)}; call again"
    refuse(entries, text, :unknown)
    {:noreply, state |> replaced() |> advance()}
  end

  def handle_info({:EXIT, runner, _}, state) do
    if runner in state.idle,
      do: {:noreply, replaced(%{state | idle: List.delete(state.idle, runner)})},
      else: {:noreply, state}
  end

  def handle_info(_, state), do: {:noreply, state}

  # Linked processes do not end with one that ends normally.
  @impl true
  def terminate(_reason, state) do
    text = "the batcher #{state.options[:label]} was stopped"
    refuse(:queue.to_list(state.queue), text <> " before the call began", :not_started)

    for {runner, %{entries: entries}} <- state.busy do
      Process.exit(runner, :kill)
      refuse(entries, text <> "; it is not known whether the call took effect", :unknown)
    end

    for runner <- state.idle, do: Process.exit(runner, :kill)
  end

  defp refuse(entries, text, outcome) do
    error = Error.new(:unavailable, text, %{outcome: outcome})
    for entry <- entries, do: GenServer.reply(entry.from, {:error, error})
  end

  defp given(state, runner, entries) do
    Runner.run(runner, entries)
    callers = for %{from: {pid, _}} <- entries, into: %{}, do: {Process.monitor(pid), nil}
    put_in(state.busy[runner], %{entries: entries, callers: callers})
  end

  defp done(state, runner) do
    {%{entries: entries, callers: callers}, state} = pop_in(state.busy[runner])
    for {monitor, _} <- callers, do: Process.demonitor(monitor, [:flush])
    {entries, state}
  end

  defp replaced(state), do: %{state | idle: [Runner.start(state.options) | state.idle]}

  # --- when a batch goes ---

  defp advance(%{waiting: 0} = state), do: state
  # A runner that becomes free looks again.
  defp advance(%{idle: []} = state), do: state

  defp advance(%{idle: [runner | idle]} = state) do
    case left(state) do
      0 ->
        {entries, state} = take(state)
        %{state | idle: idle} |> given(runner, entries) |> advance()

      ms ->
        timer = state.timer || Process.send_after(self(), :due, ms)
        %{state | timer: timer}
    end
  end

  # How long the oldest call may still wait for company.
  defp left(%{options: options} = state) do
    if state.rows >= options[:max_batch] do
      0
    else
      {:value, oldest} = :queue.peek(state.queue)

      waited = System.convert_time_unit(System.monotonic_time() - oldest.came, :native, :microsecond)

      max(0, ceil((options[:max_delay] * 1000 - waited) / 1000))
    end
  end

  defp take(state) do
    {entries, queue, rows} = take(state.queue, state.options[:max_batch], [], 0)
    {entries, %{state | queue: queue, waiting: state.waiting - length(entries), rows: state.rows - rows}}
  end

  defp take(queue, room, taken, rows) do
    case :queue.peek(queue) do
      {:value, entry} when taken == [] or rows + entry.rows <= room ->
        take(:queue.drop(queue), room, [entry | taken], rows + entry.rows)

      _ ->
        {Enum.reverse(taken), queue, rows}
    end
  end

  defp refusal(state) do
    Error.new(
      :unavailable,
      "#{state.waiting} calls wait for the batcher #{state.options[:label]} already (max_queue:); call less often, raise max_batch:, " <>
        "or let it use a pool of sessions (sessions:)",
      %{outcome: :not_started}
    )
  end

  # Whatever is no array or list goes along as one row: Python tells its caller.
  defp rows(args, position) do
    case Enum.at(args, position) do
      %kind{shape: shape}
      when kind in [Tensor, ZeroCopyRef, :"Elixir.Nx.Tensor"] and is_integer(elem(shape, 0)) and
             elem(shape, 0) >= 0 ->
        elem(shape, 0)

      list when length(list) >= 0 ->
        length(list)

      _ ->
        1
    end
  end
end
