defmodule SnakeBridge.BatcherTest do
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{Batcher, Error, Pool, Session, SessionPool, Telemetry, Tensor}

  setup_all do
    options = Application.get_env(:snakebridge, :pools)[:default]
    start_supervised!({Pool, [name: :batchers] ++ options})
    :ok
  end

  defp name(kind), do: :"#{kind}_#{System.unique_integer([:positive])}"

  defp session(options \\ []) do
    name = name("model")
    init = fn -> SnakeBridge.call("models", "Doubler") end
    start_supervised!({Session, [name: name, init: init, pool: :batchers] ++ options}, id: name)
    :ok = Session.await(name)
    name
  end

  # A window that only a full batch closes, unless the test says otherwise.
  defp batcher(options) do
    name = name("batcher")
    start_supervised!({Batcher, Keyword.merge([name: name, max_delay: 60_000], options)}, id: name)
    name
  end

  defp together(batcher, inputs), do: inputs |> Enum.map(&asking(batcher, &1)) |> Task.await_many(60_000)
  defp asking(batcher, input), do: Task.async(fn -> Batcher.call(batcher, [input], timeout: 60_000) end)
  defp row(number), do: Tensor.from_list([[number * 1.0, number + 0.5]])
  defp calls(session), do: Session.call!(session, fn model -> SnakeBridge.get_attr(model, :calls) end)

  test "concurrent calls become one, and each gets its own rows" do
    session = session()
    batcher = batcher(session: session, method: :predict, max_batch: 8)
    inputs = [row(1), row(2), row(3), Tensor.from_list([[4.0, 5.0], [6.0, 7.0]]), row(8), row(9), row(10)]

    for {input, {:ok, answer}} <- Enum.zip(inputs, together(batcher, inputs)) do
      assert answer.shape == input.shape
      assert List.flatten(Tensor.to_list(answer)) == for(x <- List.flatten(Tensor.to_list(input)), do: x * 2)
    end

    assert calls(session) == [8]
  end

  test "a call that stays alone goes when its window closes, and one with many rows goes by itself" do
    session = session()
    batcher = batcher(session: session, method: :predict, max_batch: 4, max_delay: 1)
    assert {:ok, %Tensor{shape: {1, 2}}} = Batcher.call(batcher, [row(1)])
    assert {:ok, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]} = session |> batch_of_lists([[1, 2, 3, 4, 5, 6]]) |> hd()
    assert calls(session) == [1, 6]
  end

  defp batch_of_lists(session, lists) do
    batcher = batcher(session: session, method: :predict, max_batch: 4, max_delay: 1)

    for {:ok, answer} <- together(batcher, lists), do: {:ok, Tensor.to_list(answer)}
  end

  test "an error reaches only the caller with the bad input, also when that ends the process" do
    session = session()

    for {method, category} <- [nonnegative: :python_error, quitting: :python_error, deadly: :worker_crash] do
      batcher = batcher(session: session, method: method, max_batch: 8)
      numbers = [1, 2, 3, 4, -5, 6, 7, 8]
      results = together(batcher, Enum.map(numbers, &row/1))

      for {number, result} <- Enum.zip(numbers, results) do
        if number < 0,
          do: assert({:error, %Error{category: ^category}} = result),
          else: assert({:ok, %Tensor{shape: {1, 2}}} = result)
      end
    end
  end

  test "an input that cannot travel, or is none at all, reaches only its own caller" do
    session = session()
    {:ok, elsewhere} = SnakeBridge.call("models", "Doubler", [], pool: :batchers)
    deep = Enum.reduce(1..1000, [], fn _, inner -> [inner] end)
    short = %{row(1) | data: <<1>>}
    shapeless = %{row(1) | shape: {:two, 2}}
    bad = [short, shapeless, [elsewhere], deep, [1 | 2], :none]
    batcher = batcher(session: session, method: :predict, count: :calls, max_batch: 2 * length(bad))
    inputs = Enum.flat_map(bad, &[row(1), &1])

    for [good, bad] <- batcher |> together(inputs) |> Enum.chunk_every(2) do
      assert {:ok, %Tensor{shape: {1, 2}}} = good
      assert {:error, %Error{category: category}} = bad
      assert category in [:encode_error, :session_mismatch, :limit_exceeded, :invalid_request]
    end

    counting_rows = batcher(session: session, method: :predict, max_delay: 1)
    assert [{:error, _}, {:error, _}, {:error, _}] = together(counting_rows, [shapeless, [1 | 2], :none])
    assert {:ok, _} = Batcher.call(counting_rows, [row(1)])
  end

  test "a batch that nobody waits for any more is given up" do
    batcher = batcher(session: session(), method: :told, max_delay: 0)
    me = self()
    caller = spawn(fn -> Batcher.call(batcher, [[1], fn -> send(me, :begun) end]) end)
    assert_receive :begun
    Process.exit(caller, :kill)
    assert {:ok, [2]} = Batcher.call(batcher, [[2], nil], timeout: 60_000)
  end

  test "a batcher that is stopped takes its processes along, and tells those who wait" do
    me = self()
    session = session()
    {:ok, batcher} = Batcher.start_link(session: session, method: :told, max_delay: 0, max_in_flight: 2)
    monitors = for runner <- :sys.get_state(batcher).idle, do: Process.monitor(runner)

    running =
      for _ <- 1..2, do: Task.async(fn -> Batcher.call(batcher, [[1], fn -> send(me, :begun) end]) end)

    assert_receive :begun
    assert eventually(fn -> map_size(:sys.get_state(batcher).busy) == 2 end)
    waiting = Task.async(fn -> Batcher.call(batcher, [[1], nil]) end)
    assert eventually(fn -> :sys.get_state(batcher).waiting == 1 end)
    GenServer.stop(batcher)
    for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, :process, _, _})

    for {:error, error} <- Task.await_many(running, 60_000),
        do:
          assert(
            %Error{category: :unavailable, message: "the batcher without a name was stopped; it is" <> _} =
              error
          )

    assert {:error, %Error{message: message}} = Task.await(waiting, 60_000)
    assert message =~ "stopped before the call began"
  end

  test "an error says where it comes from" do
    batcher = batcher(session: session(), method: :nonnegative, max_delay: 0)
    assert {:error, error} = Batcher.call(batcher, [row(-1)])
    assert %Error{python_type: "ValueError", message: "a row is negative"} = error
    assert error.context.elixir_function == :nonnegative
    assert error.python_traceback =~ "nonnegative"
    assert_raise Error, ~r/a row is negative/, fn -> Batcher.call!(batcher, [row(-1)]) end
  end

  test "inputs of different shape or type are not mixed" do
    batcher = batcher(session: session(), method: :kinds, count: :calls, max_batch: 4)
    inputs = [row(1), Tensor.from_list([[1.0]]), Tensor.from_list([[1.0, 2.0]], "float32"), [["a", "b"]]]

    assert together(batcher, inputs) |> Enum.map(fn {:ok, [kind]} -> kind end) ==
             ["float64(2,)", "float64(1,)", "float32(2,)", "list(2,)"]
  end

  test "answers may be maps, tuples and lists; what is none is an error that says so" do
    session = session()
    batcher = batcher(session: session, method: :several, max_batch: 2)

    for {:ok, answer} <- together(batcher, [row(1), row(2)]) do
      assert %{"double" => %Tensor{shape: {1, 2}}, "parts" => {%Tensor{}, [%Tensor{}, %Tensor{}]}} = answer
    end

    batcher = batcher(session: session, method: :mean, max_delay: 0)
    assert {:error, %Error{category: :invalid_request, message: message}} = Batcher.call(batcher, [row(1)])
    assert message =~ "call this one without batching"
  end

  test "callers that die or give up while they wait harm nobody, and are not asked for in Python" do
    session = session()
    batcher = batcher(session: session, method: :predict, max_batch: 6)
    dead = for n <- 1..3, do: spawn(fn -> Batcher.call(batcher, [row(n)]) end)
    assert eventually(fn -> :sys.get_state(batcher).waiting == 3 end)
    Enum.each(dead, &Process.exit(&1, :kill))
    assert {:error, %Error{category: :timeout}} = Batcher.call(batcher, [row(4)], timeout: 1)
    assert [{:ok, _}, {:ok, _}] = together(batcher, [row(5), row(6)])
    assert calls(session) == [2]
  end

  test "batches are filled up for functions that are compiled for each size" do
    session = session()
    batcher = batcher(session: session, method: :predict, max_batch: 3, pad_to: :powers_of_two)
    assert [{:ok, %Tensor{shape: {1, 2}}} | _] = together(batcher, [row(1), row(2), row(3)])
    assert calls(session) == [4]
  end

  test "functions of modules are batched, with arguments of every call, in a session or out of one" do
    batcher = batcher(module: "models", function: "triple", pool: :batchers, max_batch: 2)
    assert [{:ok, one}, {:ok, _}] = together(batcher, [row(1), row(2)])
    assert Tensor.to_list(one) == [[3.0, 4.5]]

    options = [
      session: session(),
      module: "models",
      function: "scale",
      args: fn model -> [SnakeBridge.get_attr!(model, :factor)] end,
      kwargs: [shift: 1.0],
      join: [0, 1],
      max_delay: 0
    ]

    assert {:ok, answer} = Batcher.call(batcher(options), [row(1), row(10)])
    assert Tensor.to_list(answer) == [[13.0, 14.5]]
  end

  test "a pool of sessions takes as many batches at once as it has sessions" do
    pool = name("pool")
    init = fn -> SnakeBridge.call("models", "Doubler") end
    start_supervised!({SessionPool, name: pool, size: 2, init: init, pool: :batchers})
    batcher = batcher(sessions: pool, method: :predict, max_batch: 2)
    assert length(:sys.get_state(batcher).idle) == 2
    results = together(batcher, for(n <- 1..8, do: row(n)))
    assert Enum.all?(results, &match?({:ok, %Tensor{shape: {1, 2}}}, &1))
    calls = SessionPool.each(pool, fn model -> SnakeBridge.get_attr(model, :calls) end)
    assert calls |> Enum.flat_map(&elem(&1, 1)) == [2, 2, 2, 2]
  end

  test "telemetry tells how large batches are and how long their calls waited" do
    batcher = batcher(session: session(), method: :predict, max_batch: 4)
    me = self()
    label = inspect(batcher)

    Telemetry.attach(
      label,
      [:snakebridge, :batch, :stop],
      fn _, measurements, metadata, _ -> if metadata.batcher == label, do: send(me, measurements) end,
      nil
    )

    on_exit(fn -> Telemetry.detach(label) end)
    together(batcher, [row(1), row(2), Tensor.from_list([[1.0, 1.0], [2.0, 2.0]])])

    assert_receive %{size: 3, rows: 4, wait_time: wait, longest_wait: longest, duration: duration}
    assert 0 <= wait and wait <= longest and duration > 0
  end

  test "more than may wait are refused, and wrong options too" do
    batcher = batcher(session: session(), method: :predict, max_queue: 1)
    waiting = asking(batcher, row(1))
    assert eventually(fn -> :sys.get_state(batcher).waiting == 1 end)
    assert {:error, %Error{category: :unavailable, message: message}} = Batcher.call(batcher, [row(2)])
    assert message =~ "raise max_batch:"
    Task.shutdown(waiting, :brutal_kill)

    assert_raise ArgumentError, ~r/needs session: or sessions:/, fn ->
      Batcher.start_link(method: :predict)
    end

    assert_raise ArgumentError, ~r/no option :maxbatch/, fn -> Batcher.start_link(maxbatch: 1) end

    for {key, value} <- [join: [], join: -1, pad_to: :threes, pad_to: [0], args: 5, kwargs: %{a: 1}] do
      assert_raise ArgumentError, ~r/^#{key}: must be/, fn ->
        Batcher.start_link([{:session, :any}, {:method, :predict}, {key, value}])
      end
    end

    Process.flag(:trap_exit, true)
    assert {:error, %Error{message: message}} = Batcher.start_link(sessions: :no_sessions, method: :predict)
    assert message =~ "no pool of sessions runs as :no_sessions"

    args = batcher(session: session(), method: :predict, args: fn _ -> throw(:away) end, max_delay: 0)
    assert {:error, %Error{category: :invalid_request, message: message}} = Batcher.call(args, [row(1)])
    assert message =~ "(throw) :away"

    assert {:error, %Error{category: :unavailable}} = Batcher.call(:no_batcher, [1])
    wrong = batcher(session: session(), method: {:no, :key}, max_delay: 0)

    assert {:error, %Error{category: :invalid_request, message: message}} = Batcher.call(wrong, [row(1)])
    assert message =~ "has no method {:no, :key}"
  end
end
