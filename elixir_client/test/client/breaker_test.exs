defmodule SnakeBridge.BreakerTest do
  # Functions that kill their workers are refused for a while; workers that die get no new sessions.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Breaker, Error, Pool, Telemetry}
  alias SnakeBridge.Breaker.{Circuit, Settings}
  alias SnakeBridge.Test.Processes

  @moduletag capture_log: true

  # The warnings are part of it.
  setup do
    level = Logger.level()
    Logger.configure(level: :warning)
    on_exit(fn -> Logger.configure(level: level) end)
  end

  # --- the circuit, against a model ---

  @settings [failures: 3, window: 100, open: 50, successes: 2, probes: 2]

  test "a circuit does what its model does, whatever happens in whatever order" do
    property = :proper.forall(:proper_types.list(step()), fn steps -> agree?(steps) end)
    assert :proper.quickcheck(property, [:quiet, numtests: 2_000, max_size: 80])
  end

  defp step do
    :proper_types.frequency([
      {4, {:advance, :proper_types.integer(0, 60)}},
      {6, :call},
      {2, :stray_failure},
      {1, {:successes, :proper_types.integer(1, 3)}},
      {8, {:proper_types.oneof([:succeed, :fail, :release]), :proper_types.integer(0, 3)}}
    ])
  end

  # The model knows all that has happened since the circuit was last closed, and counts afresh at every step.
  defp agree?(steps) do
    start = %{
      circuit: Circuit.new(Settings.new(@settings)),
      now: 0,
      # running calls, oldest first: their token, and in which half-open period they began as probes
      running: [],
      next: 1,
      mode: :closed,
      failures: [],
      opened: nil,
      period: 0,
      good: 0,
      # calls that have succeeded, ever
      succeeded: 0,
      agrees: true
    }

    Enum.reduce_while(steps, start, fn step, state ->
      state = run(step, state)
      agrees = state.agrees and state.circuit.state == state.mode
      if agrees, do: {:cont, state}, else: {:halt, %{state | agrees: false}}
    end).agrees
  end

  defp run({:advance, ms}, state), do: %{state | now: state.now + ms}

  defp run(:call, state) do
    state = expire(state)
    probing = Enum.count(state.running, &(elem(&1, 1) == state.period))

    expected =
      case state.mode do
        :closed -> :pass
        :open -> {:refuse, state.opened + 50 - state.now}
        :half_open -> if probing < 2, do: :probe, else: {:refuse, 50}
      end

    {answer, circuit} = Circuit.permit(state.circuit, state.next, state.now)
    began = %{pass: [{state.next, nil}], probe: [{state.next, state.period}]}
    running = state.running ++ Map.get(began, answer, [])
    %{state | circuit: circuit, running: running, next: state.next + 1, agrees: answer == expected}
  end

  defp run(:stray_failure, state),
    do: fail(%{state | circuit: Circuit.failed(state.circuit, state.now, nil, state.succeeded)})

  defp run({:successes, count}, state), do: %{state | succeeded: state.succeeded + count}

  defp run({_, nth}, %{running: running} = state) when nth >= length(running), do: state

  defp run({how, nth}, state) do
    {{token, period}, running} = List.pop_at(state.running, nth)
    probe? = state.mode == :half_open and period == state.period
    state = %{state | running: running}

    case how do
      :release ->
        %{state | circuit: Circuit.released(state.circuit, token)}

      :fail ->
        fail(%{state | circuit: Circuit.failed(state.circuit, state.now, nil, state.succeeded)})

      :succeed ->
        state = %{
          state
          | circuit: Circuit.succeeded(state.circuit, token),
            succeeded: state.succeeded + if(probe?, do: 0, else: 1)
        }

        cond do
          not probe? -> state
          state.good == 1 -> %{state | mode: :closed, failures: [], good: 0}
          true -> %{state | good: state.good + 1}
        end
    end
  end

  defp expire(%{mode: :open} = state) when state.now >= state.opened + 50,
    do: %{state | mode: :half_open, good: 0, period: state.period + 1}

  defp expire(state), do: state

  # The third failure within the window opens it, if less than two calls have succeeded since the first of the three.
  defp fail(%{mode: :closed} = state) do
    failures = [{state.now, state.succeeded} | state.failures]

    case Enum.filter(failures, fn {at, _} -> state.now - at < 100 end) do
      [_, _, {_, before} | _] when state.succeeded - before < 2 -> open(state)
      _ -> %{state | failures: failures}
    end
  end

  defp fail(%{mode: :half_open} = state), do: open(state)
  defp fail(state), do: state

  defp open(state), do: %{state | mode: :open, opened: state.now, failures: []}

  test "settings that are none are refused with the rule" do
    assert Settings.new(nil) == %Settings{
             failures: 5,
             window: 60_000,
             rate: 0.5,
             open: 30_000,
             successes: 3,
             probes: 3
           }

    assert Settings.new(rate: 0) == %Settings{rate: 0.0}
    assert Settings.new(false) == nil

    for {given, text} <- [
          {[failures: 0], ~r/failures of breaker: is 0; it must be a positive number; breaker: false turns/},
          {[open: :long], ~r/open of breaker: is :long; it must be a positive number of milliseconds/},
          {[rate: 1],
           ~r/rate of breaker: is 1; it must be the share of calls of which more must fail, from 0 .* to less than 1/},
          {[count: [:errors]],
           ~r/count of breaker: is \[:errors\]; it must be a list of some of :crash, :timeout/},
          {[limit: 3], ~r/breaker: has no option :limit; its options are :failures/},
          {5, ~r/breaker: is 5; it must be a keyword list, true or false/}
        ] do
      assert_raise ArgumentError, text, fn -> Settings.new(given) end
    end
  end

  # --- the breakers of calls ---

  defp circuit(settings) do
    pool = :"breaker_#{System.unique_integer([:positive])}"
    Breaker.configure(pool, breaker: settings)
    {pool, "module", "function"}
  end

  test "a breaker opens, lets probes through, and closes" do
    key = {pool, _, _} = circuit(failures: 2, rate: 0.4, open: 3_000, successes: 2, probes: 2)
    me = self()
    events = for event <- [:open, :half_open, :closed], do: [:snakebridge, :breaker, event]
    Telemetry.attach_many(key, events, fn [_, _, e], m, d, _ -> send(me, {e, m, d}) end, nil)
    on_exit(fn -> Telemetry.detach(key) end)

    assert :pass = Breaker.permit(key)
    :ok = Breaker.failed(key, :crash)
    assert [%{state: :closed, failures: 1, rejections: 0, retry_after_ms: nil}] = Breaker.list(pool)
    # No failure, but a success: what the pool does not name.
    :ok = Breaker.failed(key, :python_error)
    assert :watched = Breaker.permit(key)
    log = capture_log([level: :warning], fn -> Breaker.failed(key, :timeout) end)
    assert log =~ "calls of module.function in the pool #{inspect(pool)} are refused for 3000 ms"
    assert_receive {:open, %{rejections: 0}, %{pool: ^pool, module: "module", function: "function"}}

    assert {:error, %Error{category: :circuit_open, outcome: :not_started, retry_after_ms: left} = error} =
             Breaker.permit(key)

    assert left in 1..3_000
    assert error.message =~ "calls of module.function are refused"
    assert :pass = Breaker.permit({pool, "module", "other"})
    assert [%{state: :open, rejections: 1, module: "module", function: "function"}] = Breaker.list(pool)

    assert eventually(fn -> Breaker.state(key) == :half_open end)
    assert {:probe, first} = Breaker.permit(key)
    assert_receive {:half_open, %{rejections: 1}, _}
    assert {:probe, second} = Breaker.permit(key)
    assert {:error, %Error{category: :circuit_open}} = Breaker.permit(key)
    :ok = Breaker.succeeded(key, first)
    :ok = Breaker.succeeded(key, first)
    refute_received {:closed, _, _}
    :ok = Breaker.succeeded(key, second)
    assert_receive {:closed, %{rejections: 2}, _}
    assert :pass = Breaker.permit(key)
    assert Breaker.list(pool) == []
  end

  test "a probe that fails opens it again; one whose process is killed gives its place back" do
    key = {pool, _, _} = circuit(failures: 1, open: 20, probes: 1)
    me = self()

    Telemetry.attach(
      key,
      [:snakebridge, :breaker, :open],
      fn _, _, d, _ -> send(me, {:opened, d.pool}) end,
      nil
    )

    on_exit(fn -> Telemetry.detach(key) end)
    :ok = Breaker.failed(key, :crash)
    assert_receive {:opened, ^pool}
    assert eventually(fn -> Breaker.state(key) == :half_open end)

    prober =
      spawn(fn ->
        send(me, Breaker.permit(key))
        Process.sleep(:infinity)
      end)

    assert_receive {:probe, _}
    assert {:error, %Error{category: :circuit_open}} = Breaker.permit(key)
    Process.exit(prober, :kill)

    assert eventually(fn ->
             with {:probe, token} <- Breaker.permit(key), do: send(me, {:mine, token}), else: (_ -> nil)
           end)

    assert_received {:mine, token}
    :ok = Breaker.failed(key, :crash, token)
    assert_receive {:opened, ^pool}
    # It is over, and counts no more.
    :ok = Breaker.succeeded(key, token)
    assert eventually(fn -> Breaker.state(key) == :half_open end)
  end

  test "a function most of whose calls succeed is not to blame when workers die" do
    key = {pool, _, _} = circuit(failures: 3, rate: 0.5)
    fail = fn -> Breaker.failed(key, :crash) end
    # Nothing is counted before there is something to tell.
    assert :pass = Breaker.permit(key)
    :ok = Breaker.succeeded(key)
    assert Breaker.list(pool) == []

    for _ <- 1..10 do
      fail.()
      assert :watched = Breaker.permit(key)
      :ok = Breaker.succeeded(key)
    end

    assert [%{state: :closed, failures: 3}] = Breaker.list(pool)
    # It breaks: what was before the latest three failures does not matter.
    for _ <- 1..1_000, do: Breaker.succeeded(key)
    for _ <- 1..3, do: fail.()
    assert Breaker.state(key) == :open
    # By number alone.
    strict = circuit(failures: 2, rate: 0)
    for _ <- 1..2, do: Breaker.failed(strict, :crash) && for(_ <- 1..9, do: Breaker.succeeded(strict))
    assert Breaker.state(strict) == :open
  end

  test "calls that Python answers count for their function: results, its errors, streams to their end or halted" do
    pool = start(breaker: [failures: 2, rate: 0.4], retry: false)
    key = fn module, function -> {pool, module, function} end
    # As many failures as do not open it, and the successes that keep the next one from doing so.
    blame = fn key -> Breaker.failed(key, :crash) && Breaker.state(key) end

    for {key, call} <- [
          {key.("math", "sqrt"), fn -> {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4], pool: pool) end},
          {key.("math", "log"), fn -> {:error, _} = SnakeBridge.call("math", "log", [-1], pool: pool) end},
          {key.("builtins", "range"),
           fn -> SnakeBridge.stream("builtins", "range", [3], pool: pool) |> Enum.to_list() end},
          {key.("itertools", "count"),
           fn -> SnakeBridge.stream("itertools", "count", [], pool: pool) |> Enum.take(1) end}
        ] do
      assert blame.(key) == :closed
      for _ <- 1..2, do: call.()
      assert blame.(key) == :closed
      assert blame.(key) == :open
    end
  end

  test "nothing is kept of breakers that are at rest" do
    key = {pool, _, _} = circuit(failures: 3, window: 20)
    :ok = Breaker.failed(key, :crash)
    assert eventually(fn -> Breaker.list(pool) == [] end)
    assert :pass = Breaker.permit(key)
    off = circuit(false)
    for _ <- 1..9, do: Breaker.failed(off, :crash)
    assert :pass = Breaker.permit(off)
  end

  # --- with workers ---

  defp start(options) do
    name = :"breaker_#{System.unique_integer([:positive])}"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]
    defaults = [name: name, size: 1, python: Path.expand(".venv/bin/python"), env: env]
    start_supervised!({Pool, Keyword.merge(defaults, options)})
    name
  end

  test "a function that kills its workers is refused, and no other" do
    pool = start(breaker: [failures: 2, open: 3_000, successes: 1], retry: false)
    exit = fn status -> SnakeBridge.call("os", "_exit", [status], pool: pool) end
    for _ <- 1..2, do: assert({:error, %Error{category: :worker_crash, outcome: :unknown}} = exit.(1))
    assert {:error, %Error{category: :circuit_open, outcome: :not_started, retry_after_ms: ms}} = exit.(1)
    assert ms > 0
    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4], pool: pool)
    # Python's own errors are no failures.
    for _ <- 1..3,
        do:
          assert(
            {:error, %Error{category: :python_error}} = SnakeBridge.call("math", "sqrt", [-1], pool: pool)
          )

    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4], pool: pool)
    # A probe, of which Python says that it takes no text: its worker lives.
    assert eventually(fn -> match?({:error, %Error{category: :python_error}}, exit.("no status")) end)
    assert {:error, %Error{category: :worker_crash}} = exit.(1)
  end

  test "a death counts once, however many calls it has taken with it" do
    pool = start(breaker: [failures: 2])
    {:ok, pid} = SnakeBridge.call("os", "getpid", [], pool: pool)
    me = self()

    calls =
      for _ <- 1..4 do
        Task.async(fn ->
          SnakeBridge.call("sample", "notify_and_sleep", [fn -> send(me, :in) end, 600], pool: pool)
        end)
      end

    for _ <- calls, do: assert_receive(:in)
    Processes.kill(pid)

    for result <- Task.await_many(calls, 60_000),
        do: assert({:error, %Error{category: :worker_crash, details: %{worker: {1, 1}}}} = result)

    assert %{failures: 1, state: :closed} =
             Enum.find(Breaker.list(pool), &(&1[:function] == "notify_and_sleep"))
  end

  test "a call that is made again hears why no further attempt is" do
    pool = start(breaker: [failures: 2, open: 60_000])

    assert {:error, %Error{category: :worker_crash, outcome: :unknown, details: %{attempts: 2}} = error} =
             SnakeBridge.call("os", "_exit", [1], pool: pool, idempotent: true)

    assert error.message =~ "it is not made again: calls of os._exit are refused"
  end

  test "a call that ignores its cancellation is a failure of its function, its victims are not" do
    pool = start(breaker: [failures: 1, open: 60_000], kill_after: 100, retry: false)
    me = self()
    asleep = fn -> send(me, :asleep) end
    victim = Task.async(fn -> SnakeBridge.call("sample", "notify_and_sleep", [asleep, 600], pool: pool) end)
    assert_receive :asleep

    assert {:error, %Error{category: :timeout, outcome: :unknown}} =
             SnakeBridge.call("sample", "swallow", [600], pool: pool, __runtime__: [timeout: 2_000])

    assert {:error, %Error{category: :worker_crash, details: details}} = Task.await(victim, 60_000)
    assert %{cause: :signal, killed_for: :ignored_cancellation, attempts: 1} = details
    assert Breaker.state({pool, "sample", "swallow"}) == :open
    assert [%{function: "swallow"}] = Breaker.list(pool)
    assert [%{tainted: false}] = Pool.info(pool)
  end

  test "a stream whose worker dies under it is a failure of its function" do
    pool = start(breaker: [failures: 1, open: 60_000])
    exit = SnakeBridge.get!("os", "_exit", pool: pool)
    stream = fn -> SnakeBridge.stream("builtins", "map", [exit, [3]], pool: pool) |> Enum.to_list() end
    assert_raise Error, ~r/status 3/, stream
    assert_raise Error, ~r/calls of builtins.map are refused/, stream
  end

  test "a worker that dies again and again gets no new sessions while another is well" do
    pool = start(size: 2, breaker: [failures: 2, open: 60_000, window: 60_000], retry: false)
    assert eventually(fn -> Enum.all?(Pool.info(pool), &(&1.status == :ready)) end)
    {:ok, ill} = SnakeBridge.create_session(pool: pool)

    die = fn function, args ->
      SnakeBridge.in_session(ill, fn ->
        assert {:error, %Error{category: :worker_crash}} = SnakeBridge.call("os", function, args)
      end)
    end

    die.("_exit", [1])
    log = capture_log([level: :warning], fn -> die.("abort", []) && tainted!(pool) end)
    assert log =~ "is tainted"
    [%{index: index}] = Enum.filter(Pool.info(pool), & &1.tainted)
    assert Enum.any?(Breaker.list(pool), &match?(%{worker: ^index, state: :open}, &1))
    assert eventually(fn -> Enum.all?(Pool.info(pool), &(&1.status == :ready)) end)
    # Its own session stays where it is.
    {:ok, ill_pid} = SnakeBridge.in_session(ill, fn -> SnakeBridge.call("os", "getpid", []) end)

    pids =
      for _ <- 1..6 do
        {:ok, session} = SnakeBridge.create_session(pool: pool)
        {:ok, pid} = SnakeBridge.in_session(session, fn -> SnakeBridge.call("os", "getpid", []) end)
        pid
      end

    assert [well] = Enum.uniq(pids)
    assert well != ill_pid
    # When all are tainted, each takes sessions as before.
    for _ <- 1..2, %{index: i} <- Pool.info(pool), do: Breaker.worker_failed(pool, i)
    assert Enum.all?(Pool.info(pool), & &1.tainted)
    {:ok, other} = SnakeBridge.create_session(pool: pool)
    assert {:ok, 2.0} = SnakeBridge.in_session(other, fn -> SnakeBridge.call("math", "sqrt", [4]) end)
  end

  test "kills from outside fail no idempotent call: the function goes on, and the only worker, though tainted" do
    for spares <- [0, 1] do
      pool = start(breaker: [failures: 2, open: 60_000], spares: spares)
      good = :counters.new(1, [])
      stop = :atomics.new(1, [])

      call = fn ->
        result = SnakeBridge.call("time", "sleep", [0.002], pool: pool, idempotent: true)
        :counters.add(good, 1, if(result == {:ok, nil}, do: 1, else: 0))
        result
      end

      callers =
        for _ <- 1..2 do
          Task.async(fn ->
            Stream.repeatedly(call)
            |> Enum.find(&(&1 != {:ok, nil} or :atomics.get(stop, 1) == 1))
          end)
        end

      for _ <- 1..4 do
        {:ok, pid} = SnakeBridge.call("os", "getpid", [], pool: pool, idempotent: true)
        Processes.kill(pid)
        before = :counters.get(good, 1)
        assert eventually(fn -> :counters.get(good, 1) > before + 8 end)
      end

      tainted!(pool)
      :atomics.put(stop, 1, 1)
      assert [{:ok, nil}, {:ok, nil}] = Task.await_many(callers, 60_000)
      assert Breaker.state({pool, "time", "sleep"}) == :closed
    end
  end

  defp tainted!(pool), do: assert(eventually(fn -> Enum.any?(Pool.info(pool), & &1.tainted) end))
end
