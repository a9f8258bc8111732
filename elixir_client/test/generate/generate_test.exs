defmodule SnakeBridge.GenerateTest do
  # A language model in a session: tokens as they are made, two sessions at once, halting, and a worker that is killed.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Pool}

  @pool :generate
  @prompt [%{"role" => "user", "content" => "What is Elixir?"}]

  setup_all do
    python = System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")
    env = [{"PYTHONPATH", Path.expand("examples/generate/python")} | compiled()]
    pool = [size: 1, python: python, env: env]
    start_supervised!({Pool, [name: @pool] ++ pool})
    {:ok, session} = SnakeBridge.create_session(concurrent: true)

    model = SnakeBridge.in_session(session, fn -> load() end)
    on_exit(fn -> SnakeBridge.close_session(session) end)
    {:ok, model: model, pool: pool}
  end

  # The second worker need not compile what the first one has compiled, nor what the tests in Python have: .ci/test keeps it for all.
  defp compiled do
    if System.get_env("JAX_COMPILATION_CACHE_DIR") do
      []
    else
      directory = Path.join(System.tmp_dir!(), "snakebridge-compiled-#{System.pid()}")
      on_exit(fn -> File.rm_rf!(directory) end)
      [{"JAX_COMPILATION_CACHE_DIR", directory}, {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"}]
    end
  end

  defp load(pool \\ @pool), do: SnakeBridge.call!("smollm", "load", [], slots: 4, pool: pool)

  defp stats(model), do: SnakeBridge.call_method!(model, :stats)

  # The engine's own thread frees a slot after the stream has ended; there is nothing to wait for but that.
  defp idle?(model) do
    eventually(fn -> match?(%{"active" => 0, "capacity" => 0}, stats(model)) end)
  end

  test "callbacks get the pieces, then the figures", %{model: model} do
    me = self()
    told = &send(me, &1)
    assert :ok = SnakeBridge.stream(model, :generate, [@prompt], max_tokens: 8, callback: told)
    assert_received {:chunk, "El"}
    assert_received {:done, %{"tokens" => 8, "finish_reason" => "length", "ttft_ms" => _, "tok_s" => _}}

    assert {:error, %Error{}} = SnakeBridge.stream(model, :generate, [@prompt], top_p: 7, callback: told)
    assert_received {:error, %Error{message: "top_p must be" <> _}}
  end

  test "a lazy stream says what the whole answer says", %{model: model} do
    pieces = SnakeBridge.stream(model, :generate, [@prompt], max_tokens: 8)
    assert %{"content" => text} = SnakeBridge.call_method!(model, :chat, [@prompt], max_tokens: 8)
    assert Enum.join(pieces) == text
  end

  test "leaving a stream ends the decoding within a token and frees the cache", %{model: model} do
    assert [_, _] = SnakeBridge.stream(model, :generate, [@prompt], max_tokens: 5_000) |> Enum.take(2)
    steps = stats(model)["steps"]
    assert idle?(model)
    # At most the one that ran when it was halted.
    assert stats(model)["steps"] <= steps + 1
  end

  test "sessions and streams generate at the same time", %{model: model} do
    {:ok, session} = SnakeBridge.create_session()
    other = SnakeBridge.in_session(session, fn -> load() end)
    assert other.session_id != model.session_id
    alone = SnakeBridge.stream(model, :generate, [@prompt], max_tokens: 36) |> Enum.join()
    me = self()

    tasks =
      for {model, name} <- [{model, :a}, {model, :b}, {other, :c}] do
        Task.async(fn ->
          SnakeBridge.stream(model, :generate, [@prompt], max_tokens: 36)
          |> Stream.each(fn _ -> send(me, {:piece, name}) end)
          |> Enum.join()
        end)
      end

    assert Task.await_many(tasks, 100_000) == [alone, alone, alone]
    # In turns: one after the other, three streams would be three runs of pieces.
    assert length(Enum.dedup(pieces())) > 3
    SnakeBridge.close_session(session)
  end

  test "a worker that is killed is an error of the stream, after the pieces that came", %{pool: pool} do
    start_supervised!({Pool, [name: :killed] ++ pool})
    model = load(:killed)
    pid = SnakeBridge.call!("os", "getpid", [], pool: :killed)
    me = self()

    kill = fn
      {:chunk, piece} ->
        send(me, {:chunk, piece})
        System.cmd("/bin/kill", ["-s", "KILL", "#{pid}"])

      event ->
        send(me, event)
    end

    assert {:error, %Error{category: :worker_crash} = error} =
             SnakeBridge.stream(model, :generate, [@prompt], max_tokens: 5_000, callback: kill)

    assert_received {:chunk, _}
    assert_received {:error, ^error}
    refute_received {:done, _}
    assert {:error, %Error{category: :session_lost}} = SnakeBridge.call_method(model, :stats)
  end

  defp pieces do
    receive do
      {:piece, name} -> [name | pieces()]
    after
      0 -> []
    end
  end
end
