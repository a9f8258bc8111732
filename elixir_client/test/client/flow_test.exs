defmodule SnakeBridge.FlowTest do
  @moduledoc "Flows from Elixir: described, compiled, run, cancelled, resumed, and gone on with when their worker is killed."
  use ExUnit.Case, async: false

  import SnakeBridge.Flow, only: [spec: 1, slot: 1, term: 3, op: 2]
  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Flow, Pool, Tensor}

  @moduletag :capture_log

  # One pool for all: JAX is slow to start.
  setup_all do
    directory = Path.join(System.tmp_dir!(), "flows-#{System.pid()}")
    File.mkdir_p!(directory)
    options = Application.fetch_env!(:snakebridge, :pools)[:single]
    env = [{"BRIDGE_ADAPTER_FLOW_RUNS", directory} | options[:env]]
    on_exit(fn -> File.rm_rf!(directory) end)

    # A run that is left is saved, which may take its time where much else is done; nothing here is about being killed for that.
    started = Keyword.merge(options, name: :flows, size: 1, env: env, kill_after: 60_000)
    start_supervised!({Pool, started})
    :ok
  end

  defp small do
    spec(
      slots: [x: slot(shape: {3}), y: slot(value: Tensor.from_list([1.0, -0.2, 3.0]), role: :data)],
      terms: [term(:quadratic, :x, target: :y), term(:l1, :x, weight: 0.5)]
    )
  end

  # Its energy falls for longer than any test has patience.
  defp endless do
    entries = for index <- 0..199, do: :math.pow(10, -6 + 6 * index / 199)

    spec(
      name: "endless",
      slots: [x: slot(shape: [200])],
      terms: [
        term(:quadratic, :x,
          op: op(:diagonal, entries: Tensor.from_list(entries)),
          target: List.duplicate(1.0, 200)
        )
      ]
    )
  end

  @forever [iterations: 1_000_000_000, tol: 1.0e-300, solver: :ista, block: 200, save_every: 0, pool: :flows]

  test "a spec is maps, keywords, structs and tensors" do
    tensor = Tensor.from_list([1.0])

    assert spec(%{slots: %{"x" => [manifold: {:sphere, radius: 2.0}]}, terms: []}) ==
             %{"slots" => %{"x" => %{"manifold" => ["sphere", %{"radius" => 2.0}]}}, "terms" => []}

    assert term(:l1, :x, op: op(:compose, of: [op(:identity, []), op(:diagonal, entries: tensor)])) == %{
             "type" => "l1",
             "variable" => "x",
             "op" => %{
               "kind" => "compose",
               "of" => [%{"kind" => "identity"}, %{"kind" => "diagonal", "entries" => tensor}]
             }
           }

    assert slot(%URI{host: "h", port: 1}) == %{"host" => "h", "port" => 1}
    assert term("tie", [:x, :y], [])["variable"] == ["x", "y"]
    assert_raise ArgumentError, ~r/a slot is a keyword list or a map, not 3/, fn -> slot(3) end

    for twice <- [[slots: [x: [], x: []]], %{"name" => "a", name: "b"}],
        do:
          assert_raise(ArgumentError, ~r/the key "(x|name)" is said twice; say it once/, fn -> spec(twice) end)
  end

  test "compile tells what was chosen and why" do
    assert {:ok, report} = Flow.compile(small(), pool: :flows)
    assert %{"solver" => "mfista", "beta" => %{"value" => 1.0, "kind" => "exact"}} = report
  end

  test "certify tells what can be shown, and what would help" do
    assert {:ok, %{phase: :green, feasible: true, findings: []} = verdict} =
             Flow.certify(small(), pool: :flows)

    assert %{"value" => 1.0, "kind" => "exact"} = verdict.certificates["gamma"]

    strict = [profile: [eta_max: 0.5, lens: :pixel], pool: :flows]
    assert {:ok, %{phase: :amber, limits: %{"eta_max" => 0.5}} = verdict} = Flow.certify(endless(), strict)
    assert [%{"check" => "gamma", "remedy" => "raise_ridge", "limit" => 1.0e-6}] = verdict.findings
    assert verdict.told =~ "AMBER: gamma is"
  end

  test "a certified run tells its phase, its verdict and what it changed" do
    me = self()

    options = [
      certified: [
        gap_dial: [sigma: 0.1, warmup_iterations: 1, monitoring_interval: 1],
        config: %{max_tuner_moves: 1}
      ],
      on_progress: &send(me, {:phase, &1["phase"]}),
      pool: :flows,
      block: 1
    ]

    # One of its directions is nearly flat: the gap takes a ridge.
    flat = op(:diagonal, entries: [1.0, 1.0e-4, 1.0])
    narrow = %{small() | "terms" => [term(:quadratic, :x, op: flat, target: :y), term(:l1, :x, weight: 0.5)]}

    assert {:ok, %{phase: :green, verdict: %{phase: :green}, card: %{"passed" => true}} = result} =
             Flow.run(narrow, options)

    assert %{"moves" => 1, "remedies" => 1, "rollbacks" => 0} = result.controller
    assert %{"ridge" => ridge, "factors" => %{"lambda" => factor}} = result.changes
    assert ridge > 0.0 and factor != 1.0
    assert_received {:phase, "GREEN"}

    refused = [certified: [config: [ridge_cap: 0]], pool: :flows]
    assert {:ok, %{stopped: :cert_fail, phase: :red} = result} = Flow.run(endless(), refused)
    assert result.verdict.told =~ "gamma is"

    assert {:error, %Error{category: :invalid_request, message: message}} =
             Flow.run(small(), certified: [gap_dail: []], pool: :flows)

    assert message =~ "options.certified.gap_dail: there is no such key; did you mean gap_dial?"
  end

  test "a stream tells the progress and then the result, and ends its run when it is left" do
    assert [{:progress, %{"iteration" => 1}} | _] =
             told = small() |> Flow.stream(block: 1, certified: true, pool: :flows) |> Enum.to_list()

    assert {:result, %{stopped: :converged, phase: :green, state: %{"x" => %Tensor{}}}} = List.last(told)
    assert Enum.all?(Enum.drop(told, -1), &match?({:progress, %{"phase" => "GREEN"}}, &1))

    assert [{:progress, _}, {:progress, %{"iteration" => 400}}] =
             endless() |> Flow.stream([run_id: "looked-at"] ++ @forever) |> Enum.take(2)

    left = fn ->
      {:ok, runs} = Flow.list(pool: :flows)
      Enum.any?(runs, &(&1.run_id == "looked-at" and &1.status == :cancelled))
    end

    assert eventually(left)
    wrong = Flow.stream(put_in(small()["dtype"], "float16"), pool: :flows)

    assert_raise Error, ~r/its dtype is 'float16'; take one of float32, float64/, fn ->
      Enum.to_list(wrong)
    end
  end

  test "large arrays go there and back bit for bit, over the socket and in shared memory" do
    :rand.seed(:exsss, 5)
    data = for _ <- 1..(512 * 512), into: <<>>, do: <<:rand.normal()::float-little-64>>
    photo = %Tensor{dtype: "float64", shape: {512, 512}, data: data}
    {:ok, shared} = SnakeBridge.share(photo)

    # It begins at its minimum, and no step changes anything.
    for {given, kind} <- [{photo, Tensor}, {shared, SnakeBridge.ZeroCopyRef}] do
      still = spec(slots: [x: slot(value: given)], terms: [term(:quadratic, :x, target: given)])
      assert {:ok, %{stopped: :converged, state: %{"x" => %^kind{} = x}}} = Flow.run(still, pool: :flows)
      assert {:ok, %Tensor{dtype: "float64", shape: {512, 512}, data: ^data}} = SnakeBridge.unshare(x)
    end
  end

  test "the arrays of a run that was started are held by the process that has started it, and go with it" do
    ones = %Tensor{
      dtype: "float64",
      shape: {512, 512},
      data: :binary.copy(<<1.0::float-little-64>>, 512 * 512)
    }

    task =
      Task.async(fn ->
        {:ok, shared} = SnakeBridge.share(ones)
        still = spec(slots: [x: slot(value: shared)], terms: [term(:quadratic, :x, target: shared)])
        run = Flow.start(still, pool: :flows)
        watch = Process.monitor(run.task.pid)
        assert {:ok, %{state: %{"x" => %SnakeBridge.ZeroCopyRef{} = x}}} = Flow.await(run)
        assert_receive {:DOWN, ^watch, _, _, _}
        # By now the session of its task is released.
        :sys.get_state(SnakeBridge.SessionManager)
        assert SnakeBridge.unshare(x) == {:ok, ones}
        {:ok, again} = still |> Flow.start(pool: :flows) |> Flow.await()
        again.state["x"]
      end)

    kept = Task.await(task, 60_000)
    assert eventually(fn -> not SnakeBridge.Shared.held?(kept) end)
  end

  test "nonsense is refused at once" do
    deep = Enum.reduce(1..300, op(:identity, []), fn _, inner -> op(:scale, factor: 1.0, of: inner) end)
    other = fn fields -> Map.merge(small(), Map.new(fields)) end

    for {spec, told} <- [
          {other.([{"terms", List.duplicate(term(:l1, :x, []), 100_000)}]), "more than 1000 parts"},
          {other.([{"terms", [term(:l1, :x, op: deep)]}]), "nested deeper than 32 levels"},
          {other.([{"terms", [term(:l1, :x, weight: "0.5")]}]),
           "terms[0].weight is '0.5' of type str; it must be a number"},
          {other.([{"terms", [term(:l1, :x, weight: :much)]}]), "terms[0].weight is 'much' of type str"},
          {other.([{"terms", [term(:l1, :x, weight: -1)]}]), "its weight is -1.0; give a number above 0"},
          {other.([{"slots", [x: slot(shape: {1_000_000_000, 1_000_000_000})] |> Map.new(&plain/1)}]),
           "and all slots together more than"},
          {other.([{"slots", [x: slot(shape: {0.5})] |> Map.new(&plain/1)}]),
           "it must be a list of whole numbers"},
          {other.([{"slots", [x: slot(value: &Function.identity/1)] |> Map.new(&plain/1)}]),
           "slots.x.value is"},
          {[], "slots: it is missing, and spec needs it"}
        ] do
      assert {:error, %Error{category: :python_error, message: message}} = Flow.compile(spec, pool: :flows)
      assert message =~ told
    end
  end

  defp plain({name, slot}), do: {Atom.to_string(name), slot}

  test "a run answers with tensors, and records nothing unless it is asked to" do
    me = self()
    report = fn info -> send(me, {:progress, info["iteration"], info["energy"]}) && :cont end
    assert {:ok, result} = Flow.run(small(), pool: :flows, on_progress: report, block: 1, record: nil)
    assert [0.5, zero, 2.5] = Tensor.to_list(result.state["x"])
    assert abs(zero) < 1.0e-6
    assert {result.stopped, result.capsule, result.dtype} == {:converged, nil, "float64"}
    assert_received {:progress, 1, energy} when is_float(energy)
    assert Tensor.size(result.history["energy"]) == result.iterations
  end

  test "mistakes name their place" do
    broken = put_in(small()["terms"], [term(:l1, :x, wieght: 2)])
    assert {:error, %Error{category: :python_error} = error} = Flow.run(broken, pool: :flows)
    assert error.message =~ "terms[0].wieght: there is no such key; did you mean weight?"
    assert error.python_type =~ "FlowInputError"
    assert error.context.elixir_function == "flow.run"
    assert_raise ArgumentError, ~r/there is no option :iteration;/, fn -> Flow.run(small(), iteration: 3) end
    assert_raise ArgumentError, ~r/on_progress: is a function/, fn -> Flow.run(small(), on_progress: 3) end
  end

  test "a run is cancelled by its progress function" do
    assert {:ok, result} = Flow.run(endless(), [on_progress: fn _ -> :cancel end] ++ @forever)
    assert {result.stopped, result.iterations} == {:cancelled, 200}
  end

  test "a run is cancelled from another process, listed, and resumed" do
    me = self()

    run = Flow.start(endless(), [run_id: :afternoon, on_progress: fn _ -> send(me, :goes_on) end] ++ @forever)

    assert_receive :goes_on
    assert {:ok, [%{run_id: "afternoon", status: :running} | _]} = Flow.list(pool: :flows)
    assert {:ok, false} = Flow.cancel("morning")
    assert {:ok, true} = Flow.cancel(run)
    assert {:ok, %{stopped: :cancelled, run_id: "afternoon"} = result} = Flow.await(run)

    assert {:ok, [%{run_id: "afternoon", status: :cancelled, iterations: count, flow_name: "endless"} | _]} =
             Flow.list(pool: :flows)

    assert count == result.iterations

    assert {:ok, more} = Flow.resume(:afternoon, endless(), pool: :flows, iterations: count + 100, block: 100)

    assert {more.stopped, more.iterations} == {:budget, count + 100}
    assert {:error, %Error{message: message}} = Flow.resume("morning", endless(), pool: :flows)
    assert message =~ "there is no run 'morning'"
    assert {:error, %Error{python_type: type}} = Flow.resume(run, small(), pool: :flows)
    assert type =~ "CheckpointRefused"
  end

  test "a result is awaited once, and who awaits it again is told so" do
    run = Flow.start(small(), pool: :flows)
    assert {:ok, %{stopped: :converged}} = Flow.await(run)
    # While the task may still be ending, and when it has ended.
    for timeout <- [:infinity, 0] do
      assert_raise ArgumentError,
                   ~r/the result of the run "run-\w+" was awaited already; keep what await gave/,
                   fn ->
                     Flow.await(run, timeout)
                   end
    end

    refute_received _

    # A task that crashes is told with its reason, however often it is asked in vain before.
    Process.flag(:trap_exit, true)
    me = self()

    killed = fn _ ->
      send(me, {:held, self()})
      receive do: (:go -> Process.exit(self(), :kill))
    end

    run = Flow.start(endless(), [on_progress: killed] ++ @forever)
    assert {:timeout, {Flow, :await, _}} = catch_exit(Flow.await(run, 0))
    assert_receive {:held, holder}
    send(holder, :go)
    assert {:killed, {Flow, :await, _}} = catch_exit(Flow.await(run))
    assert_raise ArgumentError, ~r/was awaited already/, fn -> Flow.await(run) end
  end

  test "a run whose caller dies is saved where it stands" do
    me = self()

    caller =
      spawn(fn ->
        Flow.run(endless(), [run_id: "left", on_progress: fn _ -> send(me, :goes_on) end] ++ @forever)
      end)

    assert_receive :goes_on
    Process.exit(caller, :kill)

    stands = fn ->
      {:ok, runs} = Flow.list(pool: :flows)
      Enum.find(runs, &(&1.run_id == "left" and &1.status == :cancelled))
    end

    assert eventually(stands)
    assert stands.().iterations > 0
    assert {:ok, more} = Flow.resume("left", endless(), pool: :flows, iterations: stands.().iterations + 10)
    assert Tensor.size(more.history["energy"]) == 10
  end

  test "a run whose worker is killed goes on in the next one, bit for bit, and gives its answer again" do
    options = Keyword.put(@forever, :iterations, 6_000)
    {:ok, undisturbed} = Flow.run(endless(), options)
    told = :counters.new(1, [])

    kill = fn info ->
      :counters.add(told, 1, 1)

      # Between two reports of the first attempt: the checkpoint is that of an earlier block.
      if :counters.get(told, 1) == 8, do: kill_worker()

      send(self(), {:iteration, info["iteration"]})
      :cont
    end

    assert {:ok, result} = Flow.run(endless(), [idempotency_key: "job 7", on_progress: kill] ++ options)
    assert {result.stopped, result.iterations} == {:budget, 6_000}
    assert result.state == undisturbed.state and result.energy == undisturbed.energy
    assert Tensor.size(result.history["energy"]) < 6_000
    iterations = received([])
    assert Enum.count(iterations, &(&1 == 200)) == 1
    assert List.last(iterations) == 6_000

    assert {:ok, again} = Flow.run(endless(), [idempotency_key: "job 7"] ++ options)
    assert {again.state, again.capsule, again.history} == {result.state, result.capsule, %{}}
  end

  test "a certified stream whose worker is killed goes on in the next one, bit for bit" do
    # More blocks than Python makes ahead of its reader.
    options = Keyword.merge(@forever, iterations: 6_000, block: 20, save_every: 0.05, certified: true)
    {:ok, undisturbed} = Flow.run(endless(), options)

    told = :counters.new(1, [])

    read = fn
      {:progress, %{"phase" => "GREEN"}} ->
        :counters.add(told, 1, 1)
        if :counters.get(told, 1) == 3, do: kill_worker()

      {:result, result} ->
        result
    end

    result = endless() |> Flow.stream([idempotent: true] ++ options) |> Stream.map(read) |> Enum.at(-1)
    assert {result.stopped, result.iterations, result.phase} == {:budget, 6_000, :green}
    assert {result.state, result.verdict} == {undisturbed.state, undisturbed.verdict}
    assert {result.changes, result.controller} == {undisturbed.changes, undisturbed.controller}
  end

  test "a run is cancelled that no worker has: before it has reached one, and while it moves to the next" do
    run = Flow.start(endless(), [run_id: "early"] ++ @forever)
    assert {:timeout, {Flow, :await, _}} = catch_exit(Flow.await(run, 0))
    assert {:ok, true} = Flow.cancel(run)
    assert {:ok, %{stopped: :cancelled}} = Flow.await(run)

    me = self()
    told = fn _ -> send(me, :goes_on) end
    # Cancelled after its worker is killed, and before; the first report keeps the run where it is.
    for {name, order} <- [{"moves", [:kill, :cancel]}, {"told", [:cancel, :kill]}] do
      held = fn info ->
        unless Process.put(:held, true) do
          send(me, {:held, self()})
          receive do: (:go -> info)
        end
      end

      run = Flow.start(endless(), [run_id: name, idempotent: true, on_progress: held] ++ @forever)
      assert_receive {:held, holder}

      for step <- order,
          do: if(step == :kill, do: kill_worker(), else: assert({:ok, true} = Flow.cancel(run)))

      send(holder, :go)
      assert {:ok, %{stopped: :cancelled}} = Flow.await(run)
    end

    # One that is over is forgotten: the next of its name goes on.
    run = Flow.start(endless(), [run_id: "again", on_progress: told] ++ @forever)
    assert_receive :goes_on
    assert {:ok, true} = Flow.cancel(run)
    assert {:ok, %{stopped: :cancelled, iterations: count}} = Flow.await(run)

    assert {:ok, %{stopped: :budget}} =
             Flow.resume("again", endless(), pool: :flows, iterations: count + 2_000, block: 20)

    assert {:ok, false} = Flow.cancel("again")
  end

  defp kill_worker do
    [%{os_pid: pid}] = Pool.info(:flows)
    System.cmd("/bin/sh", ["-c", "kill -s KILL #{pid}"])
    assert eventually(fn -> not File.exists?("/proc/#{pid}/status") end)
  end

  defp received(iterations) do
    receive do
      {:iteration, iteration} -> received([iteration | iterations])
    after
      0 -> Enum.reverse(iterations)
    end
  end
end
