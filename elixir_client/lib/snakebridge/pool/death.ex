defmodule SnakeBridge.Pool.Death do
  @moduledoc """
  What a Python process died of: a cause for programs (`SnakeBridge.Retry.causes/0`) and a text for people, from its exit status, its last words,
  the kernel's count of processes that it killed for memory, and what the pool itself has done to it.
  """
  alias SnakeBridge.{Error, Retry}
  alias SnakeBridge.Pool.LastWords

  @enforce_keys [:cause, :how, :text]
  # how: the text without the last words
  defstruct [:cause, :how, :text, :killed_for]

  @typedoc "Why the pool itself ended a process."
  @type killed_for :: :ignored_cancellation | :missed_heartbeat | :pool_stopped
  @type t :: %__MODULE__{
          cause: Retry.cause(),
          how: String.t(),
          text: String.t(),
          killed_for: killed_for() | nil
        }

  @sigkill 128 + 9
  # What XLA, CUDA and NCCL say of a device or a driver that has failed. That there is none is no fault, and that its memory is full is told by
  # an exception.
  @gpu ~r/CUDA_ERROR_(?!NO_DEVICE|NOT_INITIALIZED|INVALID_DEVICE|OUT_OF_MEMORY|COMPAT)[A-Z_]+|CUDA error: (?!out of memory|no CUDA)|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|ncclUnhandledCudaError|NCCL (WARN|ERROR|error).*(fail|fatal)|Fatal.*XLA|XLA.*[Ff]atal|GPU has fallen off the bus/

  @doc """
  The death of a process that ended with this status. `oom?`: whether the kernel has killed for memory since it began; `killed_for`: what the
  pool has killed it for, if it has.
  """
  @spec of_exit(non_neg_integer(), LastWords.t(), boolean(), killed_for() | nil) :: t()
  def of_exit(@sigkill, words, _, killed_for) when killed_for != nil do
    cause = if killed_for == :missed_heartbeat, do: :missed_heartbeat, else: :signal
    %{new(cause, killed(killed_for), words) | killed_for: killed_for}
  end

  def of_exit(status, words, oom?, _) do
    cause =
      cond do
        status == @sigkill and oom? -> :oom
        status == @sigkill -> :signal
        LastWords.any?(words, @gpu) -> :gpu_fault
        status > 128 -> :signal
        true -> :exit
      end

    new(cause, how(status, cause), words)
  end

  @doc "The death of a process that is given up for a reason of the pool's."
  @spec given_up(String.t(), LastWords.t()) :: t()
  def given_up(how, words), do: new(:exit, how, words)

  @doc "The end of a connection to a process of whose death nothing is known."
  @spec unseen(String.t(), killed_for() | nil) :: t()
  def unseen(seen, killed_for \\ nil),
    do: %__MODULE__{cause: :connection_lost, how: seen, text: seen, killed_for: killed_for}

  @doc "The error of a call whose worker died this way; `what` says what is known of that."
  @spec error(t(), :unknown | :not_started, String.t()) :: Error.t()
  def error(death, outcome, what \\ "the Python worker died") do
    ran =
      if outcome == :unknown,
        do: "it is not known whether the call took effect",
        else: "the call had not started"

    details = for {key, value} <- [killed_for: death.killed_for], value != nil, into: %{}, do: {key, value}
    details = Map.merge(details, %{outcome: outcome, cause: death.cause})
    Error.new(:worker_crash, "#{what}: #{death.text}; #{ran}", details)
  end

  defp how(_, :oom), do: "it was killed by the kernel, because memory had run out (SIGKILL)"
  defp how(status, :gpu_fault), do: "#{LastWords.describe(status)}, after a fault of the GPU"
  defp how(status, _), do: LastWords.describe(status)

  defp killed(:ignored_cancellation),
    do: "it was killed by signal 9, because another call ignored its cancellation"

  defp killed(:missed_heartbeat),
    do: "it was killed by signal 9, because it had stopped answering (heartbeat: of the pool sets the limit)"

  defp killed(:pool_stopped),
    do: "it was killed by signal 9, because its pool was drained and something in it did not end"

  defp new(cause, how, words) do
    text = with "" <- LastWords.quoted(words), do: how, else: (quoted -> "#{how}.#{quoted}")
    %__MODULE__{cause: cause, how: how, text: text}
  end
end
