defmodule SnakeBridge.Pool.Departure do
  @moduledoc """
  How a session leaves a process that has been replaced and still finishes what runs there. What a session with `recover: :lineage` holds is made
  anew in the next process, so that it goes there only when nothing of it runs in the old one: what that does would be missing.
  """
  alias SnakeBridge.{Error, Pool, SessionContext}
  alias SnakeBridge.Exchange.Nesting
  alias SnakeBridge.Pool.WorkerClient

  # Milliseconds between questions, and until one is asked again that has no answer.
  @pause 10
  @patience 1_000

  @doc "Whether a session goes to the next process although this one would keep it: nobody waits for the end of a `SnakeBridge.Session`."
  @spec follows?(String.t()) :: boolean()
  def follows?(session), do: SnakeBridge.Session.Server.life?(session) and SessionContext.recovered?(session)

  @doc """
  Where a call of the session goes: `:here`, because a call that runs in the old process waits for it, or `:next`. Waits for the calls of the
  session that run there, as its calls always wait for each other.
  """
  @spec leave(map() | nil, map(), String.t()) :: :here | :next | {:error, Error.t()}
  def leave(nil, _, _), do: :next

  def leave(old, context, session) do
    if Nesting.parent(old) != nil, do: :here, else: follow(old, context, session)
  end

  @doc "The same for a call that the old process has refused."
  @spec follow(map() | nil, map(), String.t()) :: :next | {:error, Error.t()}
  def follow(nil, _, _), do: :next

  def follow(old, context, session),
    do: if(SessionContext.recovered?(session), do: give(old, context, session), else: :next)

  defp give(old, %{deadline: deadline} = context, session) do
    left = Pool.left(deadline)

    cond do
      left == 0 -> {:error, late(old, session)}
      WorkerClient.give(old, session, min(left, @patience)) -> :next
      true -> Process.sleep(min(Pool.left(deadline), @pause)) && give(old, context, session)
    end
  end

  defp late(old, session) do
    text =
      "the call did not begin within its timeout: another call of the session #{session} still runs in the process #{old.os_pid}, " <>
        "whose place another has taken; raise the timeout"

    Error.new(:timeout, text, %{outcome: :not_started})
  end
end
