defmodule SnakeBridge.Flow.Workers do
  @moduledoc "What is asked of every worker of a pool, because nobody knows which one has the run: to cancel it, and which runs it has."

  alias SnakeBridge.{Error, Exchange, Payload, Pool, Runtime, RuntimeClient, SessionContext}
  alias SnakeBridge.Pool.Placement

  # A session of its own, so that it waits for no run.
  @session "snakebridge.flow"
  @timeout 30_000

  @doc "The answers of all workers of a pool, of all pools for nil. What is behind another runtime client counts as one worker."
  @spec ask(atom() | nil, String.t(), map()) :: {:ok, [term()]} | {:error, Error.t() | term()}
  def ask(pool, tool, fields) do
    if RuntimeClient.current() == Pool do
      with {:ok, pools} <- pools(pool), do: pools |> Enum.flat_map(&workers/1) |> in_all(tool, fields)
    else
      with {:ok, answer} <- Runtime.tool(tool, fields, session_id: @session, timeout: @timeout),
           do: {:ok, [answer]}
    end
  end

  defp pools(name) do
    # Raises where the application is stopped.
    SessionContext.options(@session)
    if name == nil, do: {:ok, Pool.names()}, else: with(:ok <- Pool.ensure_running(name), do: {:ok, [name]})
  rescue
    error in Error -> {:error, error}
  end

  # Those that have been replaced may have a run that is not over.
  defp workers(pool), do: Placement.ready(pool) ++ Placement.leaving(pool)

  defp in_all(workers, tool, fields) do
    payload = Payload.call(nil, @session, fields)

    workers
    |> Task.async_stream(&one(&1, tool, payload), timeout: :infinity, max_concurrency: max(1, length(workers)))
    |> Enum.reduce({:ok, []}, fn
      {:ok, {:ok, answer}}, {:ok, answers} ->
        {:ok, [answer | answers]}

      # Its runs have ended with it.
      {:ok, {:error, %Error{category: category}}}, answers when category in [:worker_crash, :unavailable] ->
        answers

      {:ok, {:error, error}}, {:ok, _} ->
        {:error, error}

      _, failed ->
        failed
    end)
  end

  defp one(worker, tool, payload) do
    context = %{pool: worker.pool, timeout: @timeout, deadline: Pool.deadline(@timeout), opts: [], ends: true}
    Exchange.call(worker, @session, tool, payload, context)
  end
end
