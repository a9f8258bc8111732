defmodule SnakeBridge.RetryTest do
  # When a call is made again whose worker died, and what it is told when it is not.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Pool, Retry, Telemetry}
  alias SnakeBridge.Pool.{Death, Heartbeat, LastWords, OutOfMemory}
  alias SnakeBridge.Test.Processes

  @moduletag capture_log: true

  defp start(options) do
    name = :"retry_#{System.unique_integer([:positive])}"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]

    defaults = [
      name: name,
      size: 1,
      python: Path.expand(".venv/bin/python"),
      env: env,
      breaker: false,
      policy: [allow: ["builtins.eval"]]
    ]

    start_supervised!({Pool, Keyword.merge(defaults, options)})
    name
  end

  defp call(pool, module, function, args, opts \\ []),
    do: SnakeBridge.call(module, function, args, [pool: pool] ++ opts)

  # Python code that dies at its first runs, and how often it has run.
  defp dying(context, times) do
    file = Path.join(System.tmp_dir!(), "retry-#{:erlang.phash2({context.test, times})}-#{System.pid()}")
    on_exit(fn -> File.rm(file) end)
    count = "__import__('pathlib').Path(f).open('ab', 0).write(b'x')"
    runs = "__import__('os').path.getsize(f)"
    code = "(#{count}, __import__('os')._exit(1) if #{runs} <= #{times} else 'done')[1]"
    {[code, %{"f" => file}], fn -> file |> File.read!() |> byte_size() end}
  end

  describe "a policy" do
    test "has defaults, takes over what is not named, and no attempts after false" do
      assert %Retry{max_attempts: 3, retry_on: causes} = Retry.new(nil)
      assert causes == Retry.causes()
      base = Retry.new(max_attempts: 7, jitter: 0)
      assert %Retry{max_attempts: 7, jitter: 0, backoff: {5, 3, 9}} = Retry.new([backoff: {5, 3, 9}], base)
      assert %Retry{max_attempts: 1, jitter: 0} = Retry.new(false, base)
      assert Retry.new(%Retry{max_attempts: 2}, base) == %Retry{max_attempts: 2}
    end

    test "names the value, the rule and the remedy of what it does not take" do
      for {given, text} <- [
            {[max_attempts: 0],
             ~r/max_attempts of retry: is 0; it must be a positive integer; 1 means never again/},
            {[backoff: 10],
             ~r/backoff of retry: is 10; it must be \{first, factor, max\}.* like \{10, 2, 1_000\}/},
            {[backoff: {10, 2, 5}], ~r/not below the first/},
            {[jitter: 2], ~r/jitter of retry: is 2; it must be a number from 0 to 1/},
            {[retry_on: [:crash]],
             ~r/retry_on of retry: is \[:crash\]; it must be a list of some of :exit, :signal/},
            {[attempts: 3], ~r/retry: has no option :attempts; its options are :max_attempts/},
            {%Retry{jitter: -1}, ~r/jitter/},
            {3, ~r/retry: is 3; it must be a keyword list, a SnakeBridge.Retry, or false/}
          ] do
        assert_raise ArgumentError, text, fn -> Retry.new(given) end
      end
    end

    test "has pauses that grow to their ceiling, and differ by chance" do
      policy = Retry.new(backoff: {100, 2, 1_000}, jitter: 0.5)
      assert [100, 200, 400, 800, 1_000, 1_000] = for(attempt <- 1..6, do: Retry.pause(policy, attempt, 0.5))
      assert [50, 150] = for(chance <- [0.0, 1.0], do: Retry.pause(policy, 1, chance))
      assert Retry.pause(policy, 100_000, 0.5) == 1_000
      assert Retry.pause(%{policy | backoff: {0, 2, 1_000}}, 3, 0.9) == 0
    end

    test "decides by outcome, cause, attempts and the deadline" do
      crash = fn outcome, cause -> Error.new(:worker_crash, "", %{outcome: outcome, cause: cause}) end
      policy = Retry.new(backoff: {100, 2, 1_000}, jitter: 0, retry_on: [:exit])
      assert {:again, 100} = Retry.decide(policy, crash.(:unknown, :exit), 1, true, :infinity)
      assert {:again, 200} = Retry.decide(policy, crash.(:unknown, :exit), 2, true, 201)
      assert :out_of_time = Retry.decide(policy, crash.(:unknown, :exit), 2, true, 200)
      assert :final = Retry.decide(policy, crash.(:unknown, :exit), 3, true, :infinity)
      assert :final = Retry.decide(policy, crash.(:unknown, :exit), 1, false, :infinity)
      assert :final = Retry.decide(policy, crash.(:unknown, :oom), 1, true, :infinity)
      assert {:again, 100} = Retry.decide(policy, crash.(:not_started, :exit), 1, false, :infinity)
      assert :final = Retry.decide(policy, Error.new(:python_error, ""), 1, true, :infinity)
      drained = Error.new(:unavailable, "", %{outcome: :not_started, retry_after_ms: 250})
      assert {:again, 250} = Retry.decide(policy, drained, 1, false, :infinity)
    end
  end

  describe "a call" do
    test "that is idempotent is made again, and says how often", context do
      pool = start([])
      me = self()
      Telemetry.attach(:retry, [:snakebridge, :call, :retry], fn _, m, d, _ -> send(me, {m, d}) end, nil)
      on_exit(fn -> Telemetry.detach(:retry) end)

      {args, runs} = dying(context, 2)
      runtime = [report: &send(me, &1)]
      assert {:ok, "done"} = call(pool, "builtins", "eval", args, idempotent: true, __runtime__: runtime)
      assert runs.() == 3
      assert_received %{attempts: 3, replayed: false}

      assert_received {%{pause: _},
                       %{pool: ^pool, module: "builtins", function: "eval", attempt: 1, cause: :exit}}

      assert_received {_, %{attempt: 2}}
    end

    test "takes the policy of its pool, its session or its own", context do
      # Several workers: each rests the longer the more often it died.
      pool = start(size: 4, retry: [max_attempts: 2, backoff: {0, 1, 0}])
      {args, runs} = dying(context, 99)

      attempts = fn opts ->
        {:error, error} = call(pool, "builtins", "eval", args, [idempotent: true] ++ opts)
        error.details.attempts
      end

      elsewhere = fn opts -> Task.await(Task.async(fn -> attempts.(opts) end), 60_000) end
      assert elsewhere.([]) == 2
      assert elsewhere.(__runtime__: [retry: false]) == 1
      assert elsewhere.(retry: [retry_on: [:signal, :oom]]) == 1
      {:ok, session} = SnakeBridge.create_session(retry: [max_attempts: 1, retry_on: [:signal]])

      SnakeBridge.in_session(session, fn ->
        # What a call does not name is its session's.
        assert attempts.(retry: [jitter: 1]) == 1
        assert attempts.(retry: [retry_on: [:exit], max_attempts: 2]) == 2
      end)

      assert runs.() == 2 + 1 + 1 + 1 + 2
      assert_raise ArgumentError, ~r/jitter/, fn -> SnakeBridge.create_session(retry: [jitter: 3]) end
      assert_raise ArgumentError, ~r/max_attempts/, fn -> attempts.(retry: [max_attempts: :many]) end
      # A Python function's own retry is none of ours.
      assert {:ok, %{"kwargs" => %{"retry" => "int"}}} = call(pool, "sample", "kinds", [], retry: 3)
    end

    test "that is not idempotent is made once", context do
      pool = start([])
      {args, runs} = dying(context, 1)
      assert {:error, error} = call(pool, "builtins", "eval", args, retry: [max_attempts: 9])
      assert %Error{category: :worker_crash, outcome: :unknown, details: %{attempts: 1, cause: :exit}} = error
      assert runs.() == 1
    end

    test "is not made again when its deadline leaves no time, and says so", context do
      pool = start(retry: [backoff: {60_000, 1, 60_000}])
      {args, runs} = dying(context, 1)

      assert {:error, %Error{category: :worker_crash, outcome: :unknown} = error} =
               call(pool, "builtins", "eval", args, idempotent: true, __runtime__: [timeout: 30_000])

      assert error.message =~ "its deadline leaves no time for another attempt"
      assert runs.() == 1
    end

    test "may have taken effect even if the last attempt did not begin", context do
      site = Path.join(System.tmp_dir!(), "retry-site-#{System.unique_integer([:positive])}")
      File.mkdir_p!(site)
      on_exit(fn -> File.rm_rf(site) end)
      pool = start(env: [{"PYTHONPATH", site}])
      assert {:ok, 2.0} = call(pool, "math", "sqrt", [4])
      # The worker that takes the place of the dead one is never ready.
      File.write!(Path.join(site, "sitecustomize.py"), "__import__('time').sleep(60)")
      {args, _} = dying(context, 1)

      assert {:error, %Error{category: :timeout, outcome: :unknown} = error} =
               call(pool, "builtins", "eval", args, idempotent: true, __runtime__: [timeout: 5_000])

      assert error.message =~ "an earlier attempt may have taken effect"
      assert error.details.attempts == 1
      # A call that comes only now has had none.
      assert {:error, %Error{category: :timeout, outcome: :not_started}} =
               call(pool, "math", "sqrt", [4], __runtime__: [timeout: 50])
    end

    test "whose request could not be sent has not begun, and is made again though it is not idempotent" do
      pool = start([])
      {:ok, pid} = call(pool, "os", "getpid", [])
      [{_, :ready, worker}] = :ets.lookup(:snakebridge_workers, {pool, 1})
      me = self()
      # Python dies, and nobody has noticed yet.
      :ok = :sys.suspend(worker.pid)
      Processes.kill(pid)
      assert eventually(fn -> not Processes.running?(pid) end)
      runtime = [report: &send(me, &1)]
      task = Task.async(fn -> call(pool, "builtins", "len", ["text"], __runtime__: runtime) end)
      assert eventually(fn -> asked_why?(worker.pid) end)
      :ok = :sys.resume(worker.pid)
      assert {:ok, 4} = Task.await(task, 60_000)
      assert_received %{attempts: 2}
    end

    test "whose pool was stopped or cannot start has not begun" do
      name = start(python: "/nonexistent/python")

      assert {:error, %Error{category: :worker_start, outcome: :not_started}} =
               call(name, "math", "sqrt", [4])

      assert {:error, %Error{category: :unavailable, outcome: :not_started}} =
               call(:no_such_pool, "math", "sqrt", [4])
    end

    test "keeps its stream's crash unknown, and the place of its connection" do
      pool = start([])

      assert {:error, %Error{category: :worker_crash, outcome: :unknown, details: %{cause: :exit}}} =
               SnakeBridge.Runtime.stream(
                 "builtins",
                 "map",
                 [SnakeBridge.get!("os", "_exit", pool: pool), [3]],
                 & &1,
                 pool: pool
               )

      assert {:ok, 2.0} = call(pool, "math", "sqrt", [4])
    end
  end

  defp asked_why?(pid) do
    {:messages, messages} = Process.info(pid, :messages)
    Enum.any?(messages, &match?({:"$gen_call", _, :why}, &1))
  end

  describe "the cause of a crash" do
    test "comes from the exit status, the last words and the kernel's count" do
      words = fn lines -> Enum.reduce(lines, LastWords.new(), &LastWords.add(&2, &1)) end
      cuda = ["F0101 xla/service/gpu: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"]

      for {status, lines, oom?, killed_for, cause} <- [
            {0, [], false, nil, :exit},
            {3, [], true, nil, :exit},
            {139, [], false, nil, :signal},
            {137, [], false, nil, :signal},
            {137, [], true, nil, :oom},
            {137, [], false, :missed_heartbeat, :missed_heartbeat},
            {137, [], false, :ignored_cancellation, :signal},
            {134, cuda, false, nil, :gpu_fault},
            {1, ["CUDA error: an illegal memory access was encountered"], false, nil, :gpu_fault},
            # That there is no GPU is said by every start of a library that looks for one.
            {134, ["failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"], false,
             nil, :signal},
            {137, cuda, false, nil, :signal}
          ] do
        death = Death.of_exit(status, words.(lines), oom?, killed_for)
        assert death.cause == cause, inspect({status, lines, oom?, killed_for, death})
        error = Death.error(death, :unknown)
        assert error.details.cause == cause
        assert error.outcome == :unknown
        assert error.details[:killed_for] == killed_for
      end
    end

    test "counts what the kernel has killed for memory, in either version of cgroups" do
      root = Path.join(System.tmp_dir!(), "cgroups-#{System.unique_integer([:positive])}")
      on_exit(fn -> File.rm_rf(root) end)

      write = fn path, text ->
        File.mkdir_p!(Path.dirname(Path.join(root, path)))
        File.write!(Path.join(root, path), text)
      end

      assert OutOfMemory.kills(root) == nil
      write.("proc/self/cgroup", "0::/app.slice\n")
      write.("proc/vmstat", "pgfault 1\noom_kill 9\n")
      assert OutOfMemory.kills(root) == 9
      write.("sys/fs/cgroup/memory.events", "low 0\noom 2\noom_kill 4\noom_group_kill 0\n")
      assert OutOfMemory.kills(root) == 4
      write.("sys/fs/cgroup/app.slice/memory.events", "oom_kill 5\n")
      assert OutOfMemory.kills(root) == 5
      write.("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/c\n")

      write.(
        "sys/fs/cgroup/memory/docker/c/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
      )

      assert OutOfMemory.kills(root) == 1
      assert OutOfMemory.grown?(1, 2)
      refute OutOfMemory.grown?(2, 2)
      refute OutOfMemory.grown?(nil, 2)
    end
  end

  describe "a heartbeat" do
    test "counts silent beats of a process that does not compute" do
      heartbeat = Heartbeat.settings(heartbeat: [interval: 10, timeout: 25])
      {:alive, heartbeat} = Heartbeat.beat(heartbeat, true, 100)
      {:silent, heartbeat} = Heartbeat.beat(heartbeat, false, 100)
      {:silent, heartbeat} = Heartbeat.beat(heartbeat, false, 100)
      assert {:dead, _} = Heartbeat.beat(heartbeat, false, 100)
      # It computes: it is not dead, however long it says nothing.
      {:silent, heartbeat} = Heartbeat.beat(heartbeat, false, 101)
      heartbeat = Enum.reduce(102..200, heartbeat, &elem(Heartbeat.beat(&2, false, &1), 1))
      {:silent, heartbeat} = Heartbeat.beat(heartbeat, false, nil)
      assert heartbeat.missed == 1
      assert {:alive, %{missed: 0}} = Heartbeat.beat(heartbeat, true, nil)
      assert Heartbeat.settings(heartbeat: false) == nil
      assert %{interval: 5_000, allowed: 6} = Heartbeat.settings([])

      for wrong <- [:often, [interval: 0], [interval: 10, timeout: 5], [every: 3]],
          do:
            assert_raise(ArgumentError, ~r/heartbeat: is .* it must be false or/, fn ->
              Heartbeat.settings(heartbeat: wrong)
            end)
    end

    test "finds a worker that was stopped, and the call is made again elsewhere" do
      pool = start(heartbeat: [interval: 100, timeout: 3_000])
      pid = call(pool, "os", "getpid", []) |> elem(1)
      me = self()
      asleep = fn -> send(me, :asleep) end

      once = Task.async(fn -> call(pool, "sample", "notify_and_sleep", [asleep, 600]) end)

      assert_receive :asleep
      {_, 0} = System.cmd("/bin/sh", ["-c", "kill -s STOP #{pid}"])

      assert {:error, %Error{category: :worker_crash, outcome: :unknown, details: details}} =
               Task.await(once, 60_000)

      assert details.cause == :missed_heartbeat
      assert details.killed_for == :missed_heartbeat
      assert {:ok, other} = call(pool, "os", "getpid", [])
      assert other != pid
      assert eventually(fn -> not Processes.running?(pid) end)
    end

    test "kills no call that computes without letting others in" do
      pool = start(heartbeat: [interval: 50, timeout: 1_000])
      assert {:ok, pid} = call(pool, "os", "getpid", [])
      # Long enough for several timeouts: a loop in C that keeps the interpreter lock.
      assert {:ok, _} =
               call(pool, "builtins", "sum", [
                 SnakeBridge.call!("builtins", "range", [200_000_000], pool: pool)
               ])

      assert {:ok, ^pid} = call(pool, "os", "getpid", [])
    end
  end
end
