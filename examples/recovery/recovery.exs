# A model whose worker is killed, and which answers all the same.   mix run examples/recovery/recovery.exs

defmodule Recovery do
  @moduledoc false

  def run do
    {:ok, session} = SnakeBridge.create_session(recover: :lineage)
    SnakeBridge.in_session(session, fn -> story() end)
    SnakeBridge.close_session(session)
  end

  defp story do
    {forest, {_, unseen}} = fitted()
    before = predictions(forest, unseen)
    IO.puts("a random forest answers      #{digits(before)}   in process #{pid()}")

    System.cmd("kill", ["-9", to_string(pid())])
    {us, afterwards} = :timer.tc(fn -> predictions(forest, unseen) end)

    IO.puts(
      "kill -9; the same ref        #{digits(afterwards)}   in process #{pid()}, after #{div(us, 1000)} ms"
    )

    ^before = afterwards
  end

  # What is made and changed may be made again: `idempotent: true`. With a seed it comes out the same.
  defp fitted do
    {:ok, {rows, kinds}} =
      SnakeBridge.call("sklearn.datasets", "load_iris", [], return_X_y: true, mutates: false)

    {:ok, forest} =
      SnakeBridge.call("sklearn.ensemble", "RandomForestClassifier", [],
        n_estimators: 20,
        random_state: 7,
        idempotent: true
      )

    {:ok, _} = SnakeBridge.call(forest, :fit, [rows, kinds], idempotent: true)
    {forest, {rows, Enum.take_every(SnakeBridge.Tensor.to_list(rows), 10)}}
  end

  # What only reads is not made again: `mutates: false`.
  defp predictions(forest, rows) do
    {:ok, kinds} = SnakeBridge.call(forest, :predict, [rows], mutates: false)
    SnakeBridge.Tensor.to_list(kinds)
  end

  defp digits(kinds), do: Enum.join(kinds)
  defp pid, do: SnakeBridge.call!("os", "getpid")
end

Recovery.run()
