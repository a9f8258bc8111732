defmodule SnakeBridge.ReloadTest do
  @moduledoc "Changed Python modules run again in workers that go on."
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Pool, Reload}

  @moduletag :capture_log

  setup context do
    directory = Path.join(System.tmp_dir!(), "reload-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)

    {:ok, options} = Application.fetch_env!(:snakebridge, :pools) |> Keyword.fetch(:single)
    pool = :"reload_#{System.unique_integer([:positive])}"
    env = [env: [{"PYTHONPATH", directory}], name: pool, size: 2]
    watch = if context[:watch], do: [watch: [directory]], else: []
    start_supervised!({Pool, Keyword.merge(options, env) ++ watch})
    for index <- 1..2, do: assert({:ok, _} = Pool.SeatClient.await(pool, index, 60_000))
    write(directory, 1)
    %{directory: directory, pool: pool}
  end

  defp write(directory, version),
    do:
      File.write!(
        Path.join(directory, "reloaded.py"),
        "class Net:\n    pass\n\ndef answer():\n    return #{version}\n"
      )

  # One session on each worker.
  defp sessions(pool) do
    for _ <- 1..2 do
      {:ok, session} = SnakeBridge.create_session()
      assert {:ok, 1} = answer(pool, session)
      session
    end
  end

  defp answer(pool, session),
    do: SnakeBridge.call("reloaded", "answer", [], pool: pool, __runtime__: [session_id: session])

  test "in all workers, and says who holds old objects", %{directory: directory, pool: pool} do
    [one, two] = sessions(pool)
    {:ok, _} = SnakeBridge.call("reloaded", "Net", [], pool: pool, __runtime__: [session_id: one])
    write(directory, 2)

    assert SnakeBridge.reload("reloaded", pool: pool) ==
             {:ok,
              %{
                workers: 2,
                reloaded: ["reloaded"],
                stale: [%{session_id: one, refs: 1, types: ["Net"]}],
                running: 0
              }}

    assert {:ok, 2} = answer(pool, one)
    assert {:ok, 2} = answer(pool, two)
  end

  test "a mistake is the error, and the old code goes on", %{directory: directory, pool: pool} do
    [one | _] = sessions(pool)
    File.write!(Path.join(directory, "reloaded.py"), "def answer(:\n")

    assert {:error, %SnakeBridge.Error{python_type: "SyntaxError"}} =
             SnakeBridge.reload("reloaded", pool: pool)

    assert {:ok, 1} = answer(pool, one)
  end

  test "a module that is not there, or no wrapper, is told", %{pool: pool} do
    assert {:error, %{python_type: "ModuleNotFoundError"}} = SnakeBridge.reload("no_such_module", pool: pool)

    for own <- ["__main__", "bridge_adapter.calls"] do
      assert {:error, %{category: :invalid_request, message: message}} = SnakeBridge.reload(own, pool: pool)
      assert message =~ "the worker's own code"
    end

    assert {:error, %{category: :unavailable}} = SnakeBridge.reload("reloaded", pool: :no_such_pool)

    assert_raise ArgumentError, ~r/Enum is no SnakeBridge wrapper/, fn ->
      SnakeBridge.reload(Enum, pool: pool)
    end

    assert_raise ArgumentError, ~r/unknown keys \[:depth\]/, fn ->
      SnakeBridge.reload("reloaded", depth: 1)
    end
  end

  test "without a name of a pool, in all that run" do
    assert {:ok, %{workers: workers, reloaded: []}} = SnakeBridge.reload("zipapp")
    assert workers >= 2
  end

  @tag watch: true
  test "a watched module follows its file, and Logger hears of it", %{directory: directory, pool: pool} do
    [one | _] = sessions(pool)
    {:ok, _} = SnakeBridge.call("reloaded", "Net", [], pool: pool, __runtime__: [session_id: one])
    Logger.configure(level: :info)
    on_exit(fn -> Logger.configure(level: :error) end)

    log =
      capture_log(fn ->
        write(directory, 22)
        assert eventually(fn -> answer(pool, one) == {:ok, 22} end)
      end)

    assert log =~ "reloaded reloaded; sessions that hold objects of the old code: #{one}: 1 (Net)"
  end

  test "which directories are watched" do
    root = File.cwd!()
    assert Reload.watched([]) == []
    assert Reload.watched(watch: ["tests/python"]) == [Path.join(root, "tests/python")]

    assert Reload.watched(watch: true, env: [{"PYTHONPATH", "tests/python:/no/such/place"}]) == [
             Path.join(root, "tests/python")
           ]

    assert_raise ArgumentError, ~r/there is no directory/, fn -> Reload.watched(watch: ["no/such/place"]) end

    Application.put_env(:snakebridge, :reload, :watch)
    on_exit(fn -> Application.delete_env(:snakebridge, :reload) end)
    assert Reload.watched(env: [{"PYTHONPATH", "tests/python"}]) == [Path.join(root, "tests/python")]
    assert Reload.watched(watch: false, env: [{"PYTHONPATH", "tests/python"}]) == []
  end

  test "a wait that is no time is refused" do
    assert_raise ArgumentError, ~r/wait: is a number of milliseconds >= 0, not :infinity/, fn ->
      SnakeBridge.reload("sample", wait: :infinity)
    end
  end
end
