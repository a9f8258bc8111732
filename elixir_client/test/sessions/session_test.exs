defmodule SnakeBridge.SessionTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{Batcher, Error, Pool, Session, SessionPool, Telemetry}
  alias SnakeBridge.Test.Processes

  @pool :single

  defp model, do: fn -> SnakeBridge.call("models", "Doubler") end

  defp start(options) do
    name = Keyword.get_lazy(options, :name, &name/0)
    start_supervised!({Session, Keyword.merge([name: name, init: model(), pool: @pool], options)}, id: name)
    name
  end

  defp name, do: :"session_#{System.unique_integer([:positive])}"

  # Within `init`: an attempt that fails tells only those who wait by then.
  defp until_awaited(session), do: eventually(fn -> :sys.get_state(session).waiting != [] end)

  defp rows(list), do: SnakeBridge.Tensor.from_list(list)
  defp pid(session), do: Session.call!(session, :pid)

  test "a model is made once and called by many, in their own processes" do
    session = start([])

    results = for n <- 1..8, do: Task.async(fn -> Session.call(session, :predict, [rows([[n * 1.0]])]) end)

    for {task, n} <- Enum.zip(results, 1..8) do
      assert {:ok, tensor} = Task.await(task, 60_000)
      assert SnakeBridge.Tensor.to_list(tensor) == [[n * 2.0]]
    end

    me = self()
    assert {:ok, ^me} = Session.call(session, fn _ -> self() end)
    assert {:ok, calls} = Session.call(session, fn model -> SnakeBridge.get_attr(model, :calls) end)
    assert calls == List.duplicate(1, 8)
  end

  test "its retry: is that of the Python calls in it" do
    marker =
      Path.join(System.tmp_dir!(), "session-retry-#{System.unique_integer([:positive])}-#{System.pid()}")

    on_exit(fn -> File.rm(marker) end)
    die_once = fn model -> SnakeBridge.call_method(model, :die_once, [marker], idempotent: true) end
    once = start(recover: :lineage, retry: false)

    assert {:error, %Error{category: :worker_crash, details: %{attempts: 1}}} = Session.call(once, die_once)
    File.rm!(marker)
    assert {:ok, "again"} = Session.call(start(recover: :lineage, replayable: true), die_once)
    wrong = fn -> Session.start_link(init: model(), retry: [max_attempts: 0]) end
    assert_raise ArgumentError, ~r/max_attempts of retry: is 0/, wrong
  end

  test "it is warm before the first call, and what it makes in Python lives in its session and pool" do
    session =
      start(
        init: fn ->
          {:ok, %{model: SnakeBridge.call!("models", "Doubler"), session: SnakeBridge.current_session()}}
        end,
        warm_up: fn %{model: model} -> SnakeBridge.call(model, :warm_up) end
      )

    assert {:ok, true} = Session.call(session, fn state -> SnakeBridge.get_attr(state.model, :warm) end)
    assert {:ok, pid} = Session.call(session, {:model, :pid}, [])

    # A call of a module runs in the session's pool, too.
    assert {:ok, {^pid, id}} =
             Session.call(session, fn state ->
               assert SnakeBridge.current_session() == state.session
               {SnakeBridge.call!("os", "getpid"), state.session}
             end)

    assert %{status: :ready, pool: @pool, worker: 1, session_id: ^id, lives: 1} = Session.info(session)
    assert {:ok, %{session: ^id}} = Session.state(session)
    assert_raise ArgumentError, ~r/has no :modle; it has/, fn -> Session.call(session, {:modle, :pid}, []) end
    assert_raise ArgumentError, ~r/has no method :pid/, fn -> Session.call(session, :pid, []) end
  end

  test "the answers of functions: errors raised by Python are answers, other exceptions the caller's" do
    session = start([])
    assert {:ok, 3} = Session.call(session, fn _ -> 3 end)
    assert {:ok, 3} = Session.call(session, fn _ -> {:ok, 3} end)
    assert :ok = Session.call(session, fn model -> SnakeBridge.set_attr(model, :factor, 3.0) end)
    assert {:error, :no} = Session.call(session, fn _ -> {:error, :no} end)

    assert {:error, %Error{python_type: "ValueError"}} =
             Session.call(session, fn model -> SnakeBridge.call!(model, :nonnegative, [rows([-1.0])]) end)

    assert_raise RuntimeError, "mine", fn -> Session.call(session, fn _ -> raise "mine" end) end
    assert_raise Error, ~r/negative/, fn -> Session.call!(session, :nonnegative, [rows([-1.0])]) end
    outer = SnakeBridge.current_session()
    assert outer != Session.call!(session, fn _ -> SnakeBridge.current_session() end)
    assert SnakeBridge.current_session() == outer
  end

  test "when its worker dies while nobody calls, it begins again by itself" do
    session = start([])
    before = pid(session)
    tell_events(session)
    SnakeBridge.call("os", "_exit", [1], pool: @pool)
    assert_receive {:lost, _}
    assert_receive {:ready, %{duration: _}}
    assert pid(session) != before
    assert %{lives: 2, status: :ready, last_error: nil} = Session.info(session)
  end

  test "a call that kills the worker answers so; callers that come later wait for the next life and get its answer" do
    session = start([])
    assert {:error, %Error{category: :worker_crash}} = Session.call(session, :die)
    assert {:ok, _} = Session.call(session, :pid)
    assert {:ok, []} = Session.call(session, fn model -> SnakeBridge.get_attr(model, :calls) end)
  end

  test "an idempotent call is run again in the next life, in either form" do
    session = start([])
    [one, two] = for n <- 1..2, do: marker(n)
    assert {:ok, "again"} = Session.call(session, :die_once, [one], idempotent: true)
    work = fn model -> SnakeBridge.call(model, :die_once, [two]) end
    assert {:ok, "again"} = Session.call(session, work, idempotent: true)
  end

  test "a call that kills every worker it meets is given up after its third" do
    pool = :"dying_#{System.unique_integer([:positive])}"
    options = Application.get_env(:snakebridge, :pools)[:single]
    start_supervised!({SnakeBridge.Pool, [name: pool] ++ options})
    session = start(pool: pool)
    assert {:error, %Error{category: :worker_crash}} = Session.call(session, :die, [], idempotent: true)
    assert :ok = Session.await(session)
    assert %{lives: 4} = Session.info(session)
  end

  test "the object of the state that Python dropped is made again" do
    session = start([])
    {:ok, ref} = Session.state(session)
    :ok = SnakeBridge.release_ref(ref)
    assert {:ok, pid} = Session.call(session, :pid)
    assert is_integer(pid)
    assert %{lives: 2} = Session.info(session)
  end

  test "a function in the middle of which the session is lost says so, and leaves nothing behind" do
    session = start([])
    :ok = Session.await(session)
    %{session_id: id} = Session.info(session)

    answer =
      Session.call(session, fn model ->
        {:ok, pid} = SnakeBridge.call_method(model, :pid)
        Processes.kill(pid)
        assert eventually(fn -> match?(%{lives: 2, status: :ready}, Session.info(session)) end)
        assert eventually(fn -> Pool.Placement.at(@pool, id) == nil end)
        SnakeBridge.call_method(model, :pid)
      end)

    assert {:error, %Error{category: :session_lost, message: message}} = answer
    assert message =~ "the session #{id} has ended"
    assert Pool.Placement.at(@pool, id) == nil

    assert {:error, %Error{category: :session_lost}} =
             Session.call(session, fn model ->
               :ok = SnakeBridge.release_ref(model)
               SnakeBridge.call_method(model, :pid)
             end)

    assert {:ok, _} = Session.call(session, fn model -> SnakeBridge.call_method(model, :pid) end)
    assert %{lives: 3} = Session.info(session)
  end

  test "sessions that begin while their pool starts spread over its workers" do
    options = Application.get_env(:snakebridge, :pools)[:default]
    start_supervised!({Pool, [name: :spread] ++ options})

    for _ <- 1..4 do
      session = start(pool: :spread)
      assert eventually(fn -> Session.info(session).session_id end)
      session
    end
    |> Enum.each(&(:ok = Session.await(&1)))

    assert [%{sessions: 2}, %{sessions: 2}] = Pool.info(:spread)
  end

  test "a worker that cannot start costs no session its beginning" do
    options = Application.get_env(:snakebridge, :pools)[:default]
    directory = Path.join(System.tmp_dir!(), "snakebridge-one-#{System.pid()}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    python = Path.join(directory, "python")
    # Whoever comes first makes the directory.
    File.write!(python, "#!/bin/sh\nmkdir #{directory}/taken && exec #{options[:python]} \"$@\"\nexit 1\n")
    File.chmod!(python, 0o755)
    start_supervised!({Pool, Keyword.merge(options, name: :one_of_two, python: python)})
    sessions = for _ <- 1..4, do: start(pool: :one_of_two)
    for session <- sessions, do: assert(:ok = Session.await(session))
    for session <- sessions, do: assert(%{lives: 1} = Session.info(session))
  end

  test "who only reads streams gets a session whose object Python dropped back, too" do
    session = start([])
    {:ok, ref} = Session.state(session)
    :ok = SnakeBridge.release_ref(ref)
    stream = Session.stream(session, :count, [2])
    assert %Error{category: :unknown_ref} = catch_error(Enum.to_list(stream))
    assert [0, 1] = Enum.to_list(stream)
    assert %{lives: 2} = Session.info(session)
  end

  test "an object of a task of init, which ends with that, is told; one that the task makes in the session stays" do
    Logger.configure(level: :warning)
    on_exit(fn -> Logger.configure(level: :error) end)

    log = capture_log(fn -> :ok = Session.await(start(init: fn -> {:ok, [{1, task(model())}]} end)) end)

    assert log =~ "which another process has made"
    assert log =~ "SnakeBridge.in_session/2"

    quiet =
      capture_log(fn ->
        session =
          start(
            init: fn ->
              id = SnakeBridge.current_session()
              {:ok, %{model: task(fn -> SnakeBridge.in_session(id, model()) end)}}
            end
          )

        for _ <- 1..3, do: assert({:ok, _} = Session.call(session, {:model, :pid}))
        assert %{lives: 1} = Session.info(session)
        # Another session's is nobody's mistake.
        {:ok, state} = Session.state(session)
        :ok = Session.await(start(init: fn -> {:ok, state} end))
      end)

    refute quiet =~ "another process"
  end

  defp task(work) do
    {:ok, made} = work |> Task.async() |> Task.await(60_000)
    made
  end

  test "sessions that are stopped one by one end, and their supervisor goes on" do
    supervisor = start_supervised!({DynamicSupervisor, max_restarts: 0})

    [kept | stopped] =
      for _ <- 1..4 do
        options = [init: model(), pool: @pool, restart: :transient]
        {:ok, session} = DynamicSupervisor.start_child(supervisor, {Session, options})
        session
      end

    for session <- stopped, do: assert(:ok = Session.stop(session))
    assert %{active: 1, specs: 1} = DynamicSupervisor.count_children(supervisor)
    assert {:ok, _} = Session.call(kept, :pid)
  end

  test "a process of another kind that is taken for a session is told, and lives" do
    pool = :"sessions_#{System.unique_integer([:positive])}"
    supervisor = start_supervised!({SessionPool, name: pool, size: 1, init: model(), pool: @pool})
    session = start([])
    batcher = start_supervised!({Batcher, session: session, method: :predict, max_delay: 0})
    :ok = Session.await(session)

    for other <- [pool, batcher],
        use <- [&Session.call(&1, :pid), &Session.cast(&1, :pid), &Session.info/1, &Session.await/1],
        do: assert_raise(ArgumentError, ~r/is no SnakeBridge.Session/, fn -> use.(other) end)

    assert {:error, %Error{category: :invalid_request}} = Batcher.call(session, [[1.0]])
    assert {:error, %Error{category: :unavailable}} = SessionPool.call(session, :pid)
    assert {:error, %Error{}} = GenServer.call(batcher, :info)
    assert Process.whereis(pool) == supervisor
    assert {:ok, _} = Batcher.call(batcher, [rows([[1.0]])])
    assert %{lives: 1} = Session.info(session)
  end

  test "a session that cannot begin says why, tries again with pauses, and is given up after its maximum" do
    count = :counters.new(1, [])
    name = name()

    session =
      start(
        name: name,
        max_failures: 1,
        init: fn ->
          :counters.add(count, 1, 1)
          if :counters.get(count, 1) == 1, do: until_awaited(name)
          SnakeBridge.call("models", "no_such_model")
        end
      )

    monitor = Process.monitor(session)
    assert {:error, %Error{category: :python_error} = error} = Session.await(session)
    assert error.message =~ "cannot begin: AttributeError"
    assert error.message =~ inspect(session)
    assert_receive {:DOWN, ^monitor, :process, _, {:shutdown, {:session_failed, %Error{}}}}
    assert :counters.get(count, 1) >= 2
    stop_supervised!(session)
    assert {:error, %Error{category: :unavailable, message: message}} = Session.call(session, :pid)
    assert message =~ "start it with {SnakeBridge.Session"
  end

  test "an init that recovers is waited for, and returns what it must" do
    count = :counters.new(1, [])
    name = name()

    session =
      start(
        name: name,
        init: fn ->
          :counters.add(count, 1, 1)

          if :counters.get(count, 1) == 1,
            do: until_awaited(name) && :wrong,
            else: SnakeBridge.call("models", "Doubler")
        end
      )

    assert {:error, %Error{message: message}} = Session.await(session)
    assert message =~ "init must return {:ok, state}, not :wrong"
    assert :ok = Session.await(session)
  end

  test "an init that calls its own session is told so, and does not wait for itself" do
    name = :"session_#{System.unique_integer([:positive])}"
    {:ok, session} = Session.start_link(name: name, init: fn -> Session.call(name, :pid) end, max_failures: 9)
    assert {:error, %Error{message: message}} = Session.await(session)
    assert message =~ "use the state that it has in hand"
    Session.stop(session)
  end

  test "who waits for a session no longer than allowed is told what it waited for" do
    {:ok, gate} = Agent.start_link(fn -> nil end)

    session =
      start(
        init: fn ->
          Agent.get(gate, fn _ -> receive(do: (:go -> :ok)) end, :infinity)
          SnakeBridge.call("models", "Doubler")
        end
      )

    assert {:error, %Error{category: :timeout, message: message}} =
             Session.call(session, fn _ -> 1 end, timeout: 20)

    assert message =~ "init still runs"
    for _ <- 1..5, do: assert({:error, _} = Session.await(session, 1))
    assert length(:sys.get_state(session).waiting) < 5
    assert %{status: :starting} = Session.info(session)
    send(gate, :go)
    assert :ok = Session.await(session)
  end

  test "casts run one after another in order, in every life, and their failures are only logged" do
    session = start([])
    for text <- ~w(a b c), do: Session.cast(session, :note, [text])
    Session.cast(session, fn _ -> raise "logged" end)
    Session.cast(session, :die)
    Session.cast(session, :note, ["after"])
    me = self()
    Session.cast(session, fn model -> send(me, {:notes, SnakeBridge.get_attr!(model, :notes)}) end)
    assert_receive {:notes, ["after"]}
    Session.cast(session, :note, ["d"])
    Session.cast(session, fn model -> send(me, {:notes, SnakeBridge.get_attr!(model, :notes)}) end)
    assert_receive {:notes, ["after", "d"]}
  end

  test "a cast that fails over what is not the session's does not end the session" do
    {:ok, other} = SnakeBridge.call("models", "Doubler", [], pool: @pool)
    :ok = SnakeBridge.release_ref(other)
    session = start([])
    me = self()
    Session.cast(session, :note, ["kept"])
    Session.cast(session, fn _ -> SnakeBridge.call_method(other, :pid) end)
    Session.cast(session, fn model -> send(me, {:notes, SnakeBridge.get_attr!(model, :notes)}) end)
    assert_receive {:notes, ["kept"]}
    assert %{lives: 1, failures: 0} = Session.info(session)
  end

  test "a cast that finds its session gone in every life is given up after its third" do
    session = start([])
    me = self()

    Session.cast(session, fn model ->
      send(me, :tried)
      :ok = SnakeBridge.release_ref(model)
      SnakeBridge.call_method(model, :pid)
    end)

    Session.cast(session, fn _ -> send(me, :next) end)
    for _ <- 1..3, do: assert_receive(:tried)
    assert_receive :next
    refute_received :tried
    assert %{lives: 4} = Session.info(session)
  end

  test "who waits for a session that is given up because its process was killed is told so" do
    me = self()

    session =
      start(
        max_failures: 0,
        init: fn ->
          send(me, {:life, self()})
          receive(do: (:never -> :ok))
        end
      )

    assert_receive {:life, life}
    waiting = Task.async(fn -> Session.await(session) end)
    until_it(fn -> :sys.get_state(session).waiting != [] end)
    Process.exit(life, :kill)
    assert {:error, %Error{category: :session_lost, message: message}} = Task.await(waiting, 60_000)
    assert message =~ "its process ended: :killed"
  end

  test "attempts that never came to Python leave no options behind" do
    session = start(init: fn -> :wrong end)
    until_it(fn -> Session.info(session).failures >= 2 end)
    id = Session.info(session).session_id
    assert is_binary(id)
    stop_supervised!(session)
    until_it(fn -> SnakeBridge.SessionContext.options(id) == {%{}, []} end)
  end

  test "streams come lazily, leave no trace in the consumer, and raise when the worker dies" do
    session = start([])
    mine = SnakeBridge.current_session()
    stream = Session.stream(session, :count, [1_000_000])

    assert [0, 1, 2] =
             stream
             |> Stream.each(fn _ -> assert SnakeBridge.current_session() == mine end)
             |> Enum.take(3)

    assert [{0, 0}, {1, 1}] = stream |> Stream.zip(Session.stream(start([]), :count, [2])) |> Enum.to_list()

    assert [0, 1] =
             session
             |> Session.stream(fn _ -> SnakeBridge.stream("itertools", "count", []) end)
             |> Enum.take(2)

    assert SnakeBridge.current_session() == mine
    assert_raise Error, fn -> session |> Session.stream(:count_and_die, [3]) |> Enum.to_list() end
    assert {:ok, _} = Session.call(session, :pid)
  end

  test "what it held in Python goes with it, however it ends" do
    for ending <- [fn session -> Session.stop(session) end, fn session -> Process.exit(session, :kill) end] do
      {:ok, session} = Session.start_link(init: model(), pool: @pool)
      Process.unlink(session)
      {:ok, ref} = Session.state(session)
      assert %{session_id: id} = Session.info(session)
      ending.(session)
      assert eventually(fn -> SnakeBridge.Pool.Placement.at(@pool, id) == nil end)
      assert {:error, %Error{category: :unknown_ref}} = SnakeBridge.call_method(ref, :pid)
      assert eventually(fn -> SnakeBridge.SessionContext.options(id) == {%{}, []} end)
    end
  end

  test "Elixir functions given to Python at the beginning live as long as the session" do
    me = self()

    session =
      start(
        init: fn ->
          SnakeBridge.call("functools", "partial", [fn x -> send(me, {:asked, x}) && x + 1 end],
            __runtime__: [result: :ref]
          )
        end
      )

    assert {:ok, 42} = Session.call(session, :__call__, [41])
    assert_receive {:asked, 41}
  end

  test "options that it does not have, and those that are wrong, are refused" do
    assert_raise ArgumentError, ~r/no option :pol/, fn -> Session.start_link(init: model(), pol: 1) end
    # Twice is once, as in any keyword list.
    assert {:ok, session} = Session.start_link(init: fn -> {:ok, 1} end, init: model(), pool: @pool)
    assert {:ok, 1} = Session.state(session)
    assert_raise ArgumentError, ~r/init: must be a function/, fn -> Session.start_link(name: :x) end
    assert_raise ArgumentError, ~r/a timeout is/, fn -> Session.start_link(init: model(), timeout: "1") end
    assert_raise ArgumentError, ~r/takes the session's state/, fn -> Session.call(:x, fn -> 1 end) end
  end

  # --- parts ---

  defp tell_events(session) do
    me = self()
    label = inspect(session)
    events = for event <- [:ready, :lost], do: [:snakebridge, :session, event]

    Telemetry.attach_many(
      label,
      events,
      fn [_, _, event], measurements, %{session: name}, _ ->
        if name == label, do: send(me, {event, measurements})
      end,
      nil
    )

    on_exit(fn -> Telemetry.detach(label) end)
  end

  defp marker(n) do
    path = Path.join(System.tmp_dir!(), "died-#{System.pid()}-#{System.unique_integer([:positive])}-#{n}")
    on_exit(fn -> File.rm(path) end)
    path
  end

  defp until_it(check), do: assert(eventually(check))

  # Releases happen in the background.
end
