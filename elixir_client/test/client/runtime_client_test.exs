defmodule SnakeBridge.RuntimeClientTest do
  # How a project tests code that uses Python without Python: a client of its own.
  use ExUnit.Case, async: true

  alias SnakeBridge.{Error, RuntimeClient}

  defmodule Stub do
    @behaviour SnakeBridge.RuntimeClient

    @impl true
    def execute(tool, payload, opts) do
      send(self(), {:executed, tool, payload, opts})

      case payload["function"] do
        "array" -> {:ok, [1, 2, 3]}
        "pair" -> {:ok, %{"__type__" => "tuple", "elements" => [1, 2]}}
        "fail" -> {:error, :worker_crash}
        _ -> {:ok, nil}
      end
    end

    @impl true
    def execute_stream(_tool, payload, callback, _opts) do
      true = payload["streaming"]

      for item <- [%{"data" => 1}, %{"data" => %{"__type__" => "tuple", "elements" => [2]}}],
          do: callback.(item)

      :ok
    end
  end

  test "a client gets today's payload, with args in tagged form, and its results are decoded" do
    RuntimeClient.with_client(Stub, fn ->
      assert {:ok, [1, 2, 3]} =
               SnakeBridge.call("numpy", "array", [[1, {2, :a}]],
                 dtype: :float32,
                 __runtime__: [timeout: 5_000]
               )

      assert_received {:executed, "snakebridge.call", payload, opts}

      assert %{
               "protocol_version" => 1,
               "min_supported_version" => 1,
               "python_module" => "numpy",
               "library" => "numpy"
             } = payload

      assert %{
               "function" => "array",
               "call_type" => "dynamic",
               "idempotent" => false,
               "session_id" => session
             } = payload

      assert [[1, %{"__type__" => "tuple", "elements" => [2, %{"__type__" => "atom", "value" => "a"}]}]] =
               payload["args"]

      assert %{"dtype" => %{"__type__" => "atom", "value" => "float32"}} = payload["kwargs"]
      assert opts[:timeout] == 5_000
      assert opts[:session_id] == session
      assert {:ok, {1, 2}} = SnakeBridge.call("m", "pair")
      assert {:error, :worker_crash} = SnakeBridge.call("m", "fail")
      assert {:error, %Error{category: :encode_error}} = SnakeBridge.call("m", "f", [self()])
      me = self()
      assert :ok = SnakeBridge.stream("m", "items", [], [], &send(me, {:item, &1}))
      assert_received {:item, 1}
      assert_received {:item, {2}}
    end)

    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4])
  end

  defmodule Failing do
    @behaviour SnakeBridge.RuntimeClient

    @impl true
    def execute(_, _, _), do: {:error, :worker_crash}

    @impl true
    def execute_stream(_, %{"function" => function}, callback, _) do
      callback.(Process.get(:"$callers"))
      if function == "crash", do: exit(:crashed), else: {:error, Error.new(:unavailable, "no more")}
    end
  end

  test "a stream that fails leaves nothing with its reader" do
    RuntimeClient.with_client(Failing, fn ->
      assert {:error, %Error{category: :encode_error}} =
               SnakeBridge.stream("m", "f", [self()], [], fn _ -> :ok end)

      # The client is run by another process, which a mock of this one has to know.
      assert [[me | _]] = SnakeBridge.stream("m", "f") |> Enum.take(1)
      assert me == self()
      before = Process.info(self(), :messages)
      for _ <- 1..5, do: assert_raise(Error, fn -> SnakeBridge.stream("m", "f") |> Enum.to_list() end)
      assert catch_exit(SnakeBridge.stream("m", "crash") |> Enum.to_list()) == :crashed
      assert Process.info(self(), :messages) == before
      assert Process.info(self(), :monitors) == {:monitors, []}
    end)
  end
end
