defmodule SnakeBridge.Pool.Attempts do
  @moduledoc "How often a call is made, when workers die under it."
  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.Placement

  # How often a call may find that its worker has just died.
  @not_begun 2

  @doc "Runs `use` with the worker of the payload's session, and what a call knows of itself; again where a dead worker allows that."
  @spec run(map(), keyword(), (map(), String.t(), map() -> result)) :: result | {:error, Error.t()}
        when result: term()
  def run(payload, opts, use) do
    pool = Keyword.get(opts, :pool, :default)
    timeout = Keyword.get(opts, :timeout, 120_000)
    session = payload["session_id"] || "default"
    context = %{pool: pool, timeout: timeout, deadline: Pool.deadline(timeout), opts: opts, attempt: 1}
    attempt(session, context, use, if(payload["idempotent"] == true, do: 2, else: 1), @not_begun)
  end

  defp attempt(session, context, use, tries, not_begun) do
    with {:ok, worker} <- Placement.place(context, session) do
      case use.(worker, session, context) do
        # Its worker died before the call had come to it: nothing has happened yet, whatever the call does.
        {:error, %Error{category: :worker_crash, outcome: :not_started}} when not_begun > 0 ->
          attempt(session, context, use, tries, not_begun - 1)

        {:error, %Error{category: :worker_crash}} when tries > 1 ->
          attempt(session, %{context | attempt: context.attempt + 1}, use, tries - 1, not_begun)

        {:error, %Error{category: :unknown_ref} = error} ->
          {:error, Placement.lost(context.pool, session, error)}

        result ->
          result
      end
    end
  end
end
