defmodule SnakeBridge.Flow.Result do
  @moduledoc """
  What a run ended with.

    * `run_id` - its name, for `SnakeBridge.Flow.resume/3`; `capsule` - the folder on the worker's machine where it is recorded, or nil
    * `state` - of each variable its value, a `SnakeBridge.Tensor`
    * `stopped` - why it ended: `:converged`, `:stagnated` (the energy changed by no more than its rounding), `:budget` (of iterations), `:cancelled`;
      certified runs also `:timeout`, `:cert_fail` and `:diverged` (no step from the last good state was finite)
    * `iterations`, `energy`, `residual`, `elapsed_s`
    * `history` - of each metric (`"energy"`, `"residual"`, `"alpha"`, ...) a tensor with a value for each step that this call made
    * `report` - what the compiler chose and why, as `SnakeBridge.Flow.compile/2` tells it
    * `device`, `dtype` - where and in what it was computed

  Of a certified run (`certified:`), else nil:

    * `phase` - where it ended: `:green`, `:amber` or `:red`; `verdict` - a `SnakeBridge.Flow.Verdict`, of the energy as it ended
    * `card` - what it was asked to show, what it showed, and whether that `"passed"`
    * `controller` - how often it had to act: `"remedies"`, `"moves"`, `"accepted_moves"`, `"rollbacks"`
    * `changes` - how the energy differs from the spec: `"ridge"` is the weight that remediation added, `"factors"` those by which the tuner turned
      `"lambda"`, `"lambda2"` and `"alpha"`
  """

  alias SnakeBridge.Flow.Verdict
  alias SnakeBridge.{SessionManager, Shared, ZeroCopyRef}

  @fields [
    :run_id,
    :state,
    :stopped,
    :iterations,
    :energy,
    :residual,
    :elapsed_s,
    :history,
    :report,
    :device,
    :dtype,
    :capsule
  ]
  @certified [:phase, :verdict, :card, :controller, :changes]
  @enforce_keys @fields
  defstruct @fields ++ @certified

  @type t :: %__MODULE__{
          run_id: String.t(),
          state: %{String.t() => SnakeBridge.Tensor.t() | term()},
          stopped: atom() | String.t(),
          iterations: non_neg_integer(),
          energy: float() | atom() | nil,
          residual: float() | atom() | nil,
          elapsed_s: float(),
          history: %{String.t() => SnakeBridge.Tensor.t() | term()},
          report: map(),
          device: String.t(),
          dtype: String.t(),
          capsule: String.t() | nil,
          phase: Verdict.phase() | nil,
          verdict: Verdict.t() | nil,
          card: map() | nil,
          controller: %{String.t() => non_neg_integer()} | nil,
          changes: map() | nil
        }

  @statuses Map.new(
              ~w(converged stagnated budget completed cancelled timeout cert_fail diverged failed running interrupted)a,
              &{Atom.to_string(&1), &1}
            )

  @doc "The result in an answer of the worker."
  @spec from_wire(map()) :: t()
  def from_wire(answer) do
    fields = for field <- @fields ++ @certified, do: {field, answer[Atom.to_string(field)]}
    result = struct!(__MODULE__, fields)

    %{
      result
      | stopped: status(result.stopped),
        phase: Verdict.phase(result.phase),
        verdict: Verdict.from_wire(result.verdict)
    }
  end

  @doc "The result, whose arrays in shared memory another session holds, too."
  @spec held_by(t(), String.t()) :: t()
  def held_by(%__MODULE__{} = result, session),
    do: %{result | state: held(result.state, session), history: held(result.history, session)}

  defp held(arrays, session), do: Map.new(arrays, fn {name, value} -> {name, hold(value, session)} end)

  defp hold(%ZeroCopyRef{session_id: holder} = ref, session) when holder != session do
    with {:ok, again} <- Shared.hold(session, ref.segment, ref.offset, ref.bytes) do
      # Of a session that ends just now nobody would let it go.
      if SessionManager.ended?(session), do: Shared.release(again)
      %{ref | session_id: session, hold: again.hold}
    else
      {:error, _} -> ref
    end
  end

  defp hold(value, _), do: value

  @doc "How a run ended or stands, as an atom; one that this version does not know stays a text."
  @spec status(String.t()) :: atom() | String.t()
  def status(text), do: Map.get(@statuses, text, text)
end
