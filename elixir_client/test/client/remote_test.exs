defmodule SnakeBridge.RemoteTest do
  # Workers that the pool did not start: over TLS, with certificates of both sides, with real executors and a network that breaks.
  use ExUnit.Case, async: true

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Test.RemoteWorker

  setup_all do
    certificates = RemoteWorker.certificates()
    on_exit(fn -> File.rm_rf!(certificates.directory) end)
    # For the tests that do not kill it.
    %{certificates: certificates, worker: server(certificates)}
  end

  defp server(certificates, listen \\ "tls:127.0.0.1:0", arguments \\ []) do
    RemoteWorker.start(
      listen,
      [
        "--tls-cert",
        certificates.server_cert,
        "--tls-key",
        certificates.server_key,
        "--tls-client-ca",
        certificates.server_ca | arguments
      ]
    )
  end

  defp trusted(certificates, address, more \\ []) do
    [
      address: address,
      token: RemoteWorker.token(),
      cacertfile: certificates.client_ca,
      certfile: certificates.client_cert,
      keyfile: certificates.client_key
    ]
    |> Keyword.merge(more)
  end

  # A pool of its own for each test, and calls into it.
  defp pool(workers, options \\ []) do
    name = :"remote_#{System.unique_integer([:positive])}"
    start_supervised!({Pool, [name: name, workers: workers] ++ options}, id: name)
    name
  end

  defp call(pool, module, function, args, opts \\ []),
    do: SnakeBridge.call(module, function, args, [pool: pool] ++ opts)

  test "calls, streams, functions and large values travel to a worker with certificates on both sides",
       context do
    pool = pool([trusted(context.certificates, context.worker.address)])
    assert {:ok, 4.0} = call(pool, "math", "sqrt", [16])
    assert [0, 1, 2, 3] = SnakeBridge.stream("builtins", "range", [4], pool: pool) |> Enum.to_list()
    assert {:ok, 6} = call(pool, "functools", "reduce", [fn a, b -> a + b end, [1, 2, 3]])
    large = :binary.copy("0123456789abcdef", 2_000_000)
    assert {:ok, ^large} = call(pool, "builtins", "str", [large])
    {:ok, acc} = call(pool, "sample", "Acc", [1])
    assert {:ok, 3} = SnakeBridge.call(acc, :add, [2], pool: pool)
    assert [%{status: :ready, os_pid: nil}] = Pool.info(pool)

    results = 1..200 |> Task.async_stream(&call(pool, "builtins", "abs", [-&1]), max_concurrency: 16)
    assert Enum.to_list(results) == for(n <- 1..200, do: {:ok, {:ok, n}})
  end

  test "who is not trusted is told so at once, on either side", context do
    certificates = context.certificates
    address = context.worker.address
    strange = RemoteWorker.certificates()
    on_exit(fn -> File.rm_rf!(strange.directory) end)

    for {workers, text} <- [
          {trusted(certificates, address, cacertfile: strange.client_ca), ~r/no trust .*[Uu]nknown CA/s},
          {trusted(certificates, address, server_name: "elsewhere.example"), ~r/hostname_check_failed/},
          {trusted(certificates, address, certfile: nil, keyfile: nil), ~r/[Cc]ertificate [Rr]equired/},
          {trusted(certificates, address, certfile: strange.client_cert, keyfile: strange.client_key),
           ~r/does not trust this node/},
          {trusted(certificates, address, token: "something else"), ~r/wrong token/},
          {trusted(certificates, address, token: fn -> raise "the secret" end), ~r/raised RuntimeError$/},
          {trusted(certificates, address, token: nil, token_file: "/nowhere"),
           ~r/cannot be read: no such file/}
        ] do
      assert {:error, %Error{category: :unauthorized, outcome: :not_started, message: message}} =
               call(pool([workers]), "math", "sqrt", [16])

      assert message =~ text
      refute message =~ "the secret"
    end
  end

  test "a certificate goes unverified only where the option says so", context do
    strange = RemoteWorker.certificates()
    on_exit(fn -> File.rm_rf!(strange.directory) end)
    place = trusted(context.certificates, context.worker.address, cacertfile: strange.client_ca)
    assert {:error, %Error{category: :unauthorized}} = call(pool([place]), "math", "sqrt", [16])
    assert {:ok, 4.0} = call(pool([place ++ [verify: :verify_none]]), "math", "sqrt", [16])
  end

  test "an expired certificate is refused" do
    expired = RemoteWorker.certificates(expired: true)
    on_exit(fn -> File.rm_rf!(expired.directory) end)
    pool = pool([trusted(expired, server(expired).address)])

    assert {:error, %Error{category: :unauthorized, message: message}} = call(pool, "math", "sqrt", [16])
    assert message =~ ~r/expired/i
  end

  test "a worker that is killed and started again loses what it held; the next call works", context do
    worker = server(context.certificates)
    pool = pool([trusted(context.certificates, worker.address)], breaker: [failures: 1])
    {:ok, acc} = call(pool, "sample", "Acc", [1])
    me = self()

    running =
      Task.async(fn ->
        call(pool, "sample", "notify_and_sleep", [fn -> send(me, :in) end, 60])
      end)

    assert_receive :in
    RemoteWorker.kill(worker)

    assert {:error, %Error{category: :worker_crash, outcome: :unknown, message: message}} =
             Task.await(running, 60_000)

    assert message =~ "the Python worker at #{worker.address} was lost"

    # A caller waits for the worker to come back.
    waiting = Task.async(fn -> call(pool, "math", "sqrt", [16]) end)
    server(context.certificates, worker.address)
    assert {:ok, 4.0} = Task.await(waiting, 60_000)

    assert {:error, %Error{category: :session_lost, message: message}} =
             SnakeBridge.call(acc, :add, [1], pool: pool)

    assert message =~ "was restarted"
    assert {:ok, _} = call(pool, "sample", "Acc", [1])
    # Another process answers: the one before has died, perhaps of what ran there.
    assert {:error, %Error{category: :circuit_open}} = call(pool, "sample", "notify_and_sleep", [nil, 0])
  end

  test "a worker that is not there is an error once callers have waited long enough", context do
    worker = server(context.certificates)
    pool = pool([trusted(context.certificates, worker.address)], start_timeout: 300)
    assert {:ok, 4.0} = call(pool, "math", "sqrt", [16])
    RemoteWorker.kill(worker)

    assert eventually(fn ->
             match?(
               {:error, %Error{category: :unavailable, outcome: :not_started, retry_after_ms: ms}}
               when ms > 0,
               call(pool, "math", "sqrt", [16])
             )
           end)

    server(context.certificates, worker.address)
    assert eventually(fn -> call(pool, "math", "sqrt", [16]) == {:ok, 4.0} end)
  end

  test "when only the connection breaks, sessions, refs and functions go on", context do
    worker = context.worker
    {network, address} = RemoteWorker.network(worker.address)
    pool = pool([trusted(context.certificates, address)])
    {:ok, acc} = call(pool, "sample", "Acc", [1])
    generation = hd(Pool.info(pool)).generation

    for n <- 1..3 do
      RemoteWorker.cut(network)
      assert eventually(fn -> match?({:ok, _}, call(pool, "math", "sqrt", [16])) end)
      assert {:ok, total} = SnakeBridge.call(acc, :add, [1], pool: pool)
      assert total == 1 + n
    end

    assert [%{status: :ready, generation: ^generation}] = Pool.info(pool)
  end

  test "a call whose connection breaks has an outcome that is not known, unless it is idempotent", context do
    worker = context.worker
    {network, address} = RemoteWorker.network(worker.address)
    pool = pool([trusted(context.certificates, address)], breaker: [failures: 1])
    me = self()

    calls =
      for opts <- [[], [idempotent: true]] do
        task =
          Task.async(fn ->
            call(pool, "sample", "notify_and_sleep", [fn -> send(me, :in) end, 0.5], opts)
          end)

        assert_receive :in
        task
      end

    RemoteWorker.cut(network)
    assert [{:error, %Error{category: :worker_crash, outcome: :unknown}}, {:ok, _}] = Task.await_many(calls)
    # The same process answers: it has died of nothing.
    assert for(%{function: function} <- SnakeBridge.Breaker.list(pool), do: function) == []
  end

  test "a machine that accepts and says nothing holds up nobody who can be served elsewhere", context do
    {:ok, silent} = :gen_tcp.listen(0, ip: {127, 0, 0, 1}, active: false)
    {:ok, port} = :inet.port(silent)
    worker = context.worker

    pool =
      pool([
        trusted(context.certificates, "tls:127.0.0.1:#{port}"),
        trusted(context.certificates, worker.address)
      ])

    assert eventually(fn -> Enum.any?(Pool.info(pool), &(&1.status == :ready)) end)
    assert {:ok, 4.0} = call(pool, "math", "sqrt", [16])
  end

  test "a token is fetched for each connection, so it may be replaced on both sides", context do
    path = Path.join(context.certificates.directory, "token")
    write = fn token -> File.write!(path <> ".new", token) && File.chmod!(path <> ".new", 0o600) && nil end
    replace = fn token -> write.(token) || File.rename!(path <> ".new", path) end
    replace.("the first of two tokens\n")

    worker =
      RemoteWorker.start(
        "tls:127.0.0.1:0",
        [
          "--tls-cert",
          context.certificates.server_cert,
          "--tls-key",
          context.certificates.server_key,
          "--token-grace",
          "0"
        ],
        [{"SNAKEBRIDGE_TOKEN_FILE", path}]
      )

    {network, address} = RemoteWorker.network(worker.address)
    pool = pool([[address: address, token_file: path, cacertfile: context.certificates.client_ca]])
    assert {:ok, 4.0} = call(pool, "math", "sqrt", [16])
    replace.("the second of two tokens\n")
    RemoteWorker.cut(network)
    assert eventually(fn -> call(pool, "math", "sqrt", [16]) == {:ok, 4.0} end)
    File.chmod!(path, 0o644)
    RemoteWorker.cut(network)

    assert eventually(fn ->
             match?(
               {:error, %Error{category: :unauthorized, message: "no token: others may read the file" <> _}},
               call(pool, "math", "sqrt", [16])
             )
           end)
  end

  test "a token shows in no state and no child specification" do
    token = "a token that nobody may read"
    worker = RemoteWorker.start("tcp:127.0.0.1:0", [], [{"SNAKEBRIDGE_TOKEN", token}])
    pool = pool([[address: worker.address, token: token]])
    assert {:ok, 4.0} = call(pool, "math", "sqrt", [16])

    shown =
      for {_, pid, _, _} <- Supervisor.which_children(Pool.whereis(pool)),
          do: inspect(:sys.get_state(pid), limit: :infinity, printable_limit: :infinity)

    specification = Pool.child_spec(name: :shown, workers: [[address: "tls:a:1", token: token]])
    refute inspect([shown, specification, :sys.get_state(Pool.whereis(pool))], limit: :infinity) =~ token
  end

  test "hosts are names and addresses of both families, as far as this machine has them" do
    hosts =
      case :gen_tcp.listen(0, [:inet6, ip: {0, 0, 0, 0, 0, 0, 0, 1}]) do
        {:ok, probe} -> :gen_tcp.close(probe) && [{"127.0.0.1", "localhost"}, {"[::1]", "[::1]"}]
        {:error, _} -> [{"127.0.0.1", "localhost"}]
      end

    for {listening, host} <- hosts do
      worker = RemoteWorker.start("tcp:#{listening}:0", [])
      port = worker.address |> String.split(":") |> List.last()
      place = [address: "tcp:#{host}:#{port}", token: RemoteWorker.token()]
      assert {:ok, 4.0} = call(pool([place]), "math", "sqrt", [16])
    end
  end

  test "a key names one call only where the option says that the workers share a journal", context do
    journal = Path.join(context.certificates.directory, "calls.journal")
    worker = server(context.certificates, "tls:127.0.0.1:0", ["--journal", journal])
    place = trusted(context.certificates, worker.address)
    opts = [idempotency_key: "order 1"]
    assert {:ok, first} = call(pool([place], journal: true), "time", "time_ns", [], opts)
    assert {:ok, ^first} = call(pool([place], journal: true), "time", "time_ns", [], opts)
    assert {:error, %Error{category: :invalid_request}} = call(pool([place]), "time", "time_ns", [], opts)
  end

  test "options that cannot be used are refused when the pool is made, without showing what they hold" do
    good = [address: "tls:127.0.0.1:1", token: "a secret token"]

    for {workers, text} <- [
          {[Keyword.delete(good, :token)], ~r/needs token: .* or token_file:/},
          {[good ++ [token_file: "/x"]], ~r/and not both/},
          {[good ++ [certificate: "/x"]], ~r/has no option :certificate; the options are :address, /},
          {[[address: "tcp:192.0.2.1:1", token: "a secret token"]],
           ~r/would not be encrypted.*insecure: true/},
          {[[address: "unix:/x", token: "a secret token"]], ~r/is no address of a worker/},
          {[[address: "tls:host", token: "a secret token"]], ~r/is no address of a worker/},
          {"a secret token", ~r/must be a list of remote workers/},
          {[["a secret token"]], ~r/is a keyword list/}
        ] do
      error = assert_raise ArgumentError, text, fn -> Pool.child_spec(name: :wrong, workers: workers) end
      refute error.message =~ "secret"
    end

    assert_raise ArgumentError, ~r/remove size:/, fn ->
      Pool.child_spec(name: :wrong, size: 2, workers: [good])
    end
  end
end
