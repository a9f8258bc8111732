defmodule SnakeBridge.Retry do
  @moduledoc """
  How often a call is made whose worker dies under it, and when: one policy, for a pool, a session or a call.

      config :snakebridge, pools: [default: [retry: [max_attempts: 5]]]
      SnakeBridge.call("math", "sqrt", [16], idempotent: true, retry: [backoff: {50, 2, 2_000}])

    * `:max_attempts` - how often a call is made in all (3; 1: never again)
    * `:backoff` - `{first, factor, max}`: milliseconds before the second attempt, by how much each further pause is longer, and the longest
      (`{10, 2, 1_000}`)
    * `:jitter` - the part of a pause that is left to chance (0.1: between 90 % and 110 % of it), so that callers that failed together do not
      come again together
    * `:retry_on` - which deaths of a worker allow another attempt: `:exit`, `:signal`, `:oom`, `:connection_lost`, `:missed_heartbeat`,
      `:gpu_fault` (all). `error.details.cause` names that of a crash

  Only calls that are `idempotent: true` are made again after they may have begun; calls that had not begun always are. No attempt starts
  after the call's deadline, and no pause reaches beyond it. `false` as a policy means one attempt. See docs/retries.md.
  """
  alias SnakeBridge.Error

  @causes [:exit, :signal, :oom, :connection_lost, :missed_heartbeat, :gpu_fault]

  defstruct max_attempts: 3, backoff: {10, 2, 1_000}, jitter: 0.1, retry_on: @causes

  @type cause :: :exit | :signal | :oom | :connection_lost | :missed_heartbeat | :gpu_fault
  @type t :: %__MODULE__{
          max_attempts: pos_integer(),
          backoff: {non_neg_integer(), number(), non_neg_integer()},
          jitter: number(),
          retry_on: [cause()]
        }
  @typedoc "A policy, or what differs from another one; `false`: never again."
  @type given :: t() | keyword() | false | nil

  @doc "What a worker may die of."
  @spec causes() :: [cause()]
  def causes, do: @causes

  @doc """
  The policy that `given` describes; what it does not name is as in `base`. Raises ArgumentError.

      iex> SnakeBridge.Retry.new(max_attempts: 5).max_attempts
      5
  """
  @spec new(given(), t()) :: t()
  def new(given, base \\ %__MODULE__{})
  def new(nil, base), do: base
  def new(false, base), do: %{base | max_attempts: 1}
  def new(%__MODULE__{} = policy, _), do: Enum.reduce(Map.from_struct(policy), policy, &check/2)

  def new(given, base) do
    unless Keyword.keyword?(given),
      do:
        raise(
          ArgumentError,
          "retry: is #{inspect(given, limit: 5)}; it must be a keyword list, a SnakeBridge.Retry, or false"
        )

    Enum.reduce(given, base, &check/2)
  end

  defp check({:max_attempts, count}, policy) when is_integer(count) and count > 0,
    do: %{policy | max_attempts: count}

  defp check({:max_attempts, other}, _),
    do: wrong(:max_attempts, other, "a positive integer; 1 means never again")

  defp check({:backoff, {first, factor, max} = backoff}, policy)
       when is_integer(first) and first >= 0 and is_number(factor) and factor >= 1 and is_integer(max) and
              max >= first,
       do: %{policy | backoff: backoff}

  defp check({:backoff, other}, _) do
    wrong(
      :backoff,
      other,
      "{first, factor, max}: milliseconds, a factor of at least 1, and milliseconds not below the first, like {10, 2, 1_000}"
    )
  end

  defp check({:jitter, part}, policy) when is_number(part) and part >= 0 and part <= 1,
    do: %{policy | jitter: part}

  defp check({:jitter, other}, _), do: wrong(:jitter, other, "a number from 0 to 1, like 0.1")

  defp check({:retry_on, causes}, policy) do
    if is_list(causes) and causes -- @causes == [],
      do: %{policy | retry_on: causes},
      else: wrong(:retry_on, causes, "a list of some of #{Enum.map_join(@causes, ", ", &inspect/1)}")
  end

  defp check({name, _}, _) do
    raise ArgumentError,
          "retry: has no option #{inspect(name)}; its options are :max_attempts, :backoff, :jitter and :retry_on"
  end

  @spec wrong(atom(), term(), String.t()) :: no_return()
  defp wrong(name, value, rule) do
    raise ArgumentError, "the option #{name} of retry: is #{inspect(value, limit: 5)}; it must be #{rule}"
  end

  # --- policies of pools ---

  @doc false
  # Checks the policy of a pool and keeps it where calls find it.
  def configure(pool, options), do: :persistent_term.put({__MODULE__, pool}, new(options[:retry]))

  @doc "The policy of the calls of a pool that bring none."
  @spec of(atom()) :: t()
  def of(pool), do: :persistent_term.get({__MODULE__, pool}, %__MODULE__{})

  # --- decisions ---

  @doc """
  Whether a call is made again that failed with this error at its nth attempt: after how many milliseconds, or why not. `idempotent?` says
  whether it may be made again after it may have begun, `left` how many milliseconds it has until its deadline.
  """
  @spec decide(t(), Error.t(), pos_integer(), boolean(), timeout()) ::
          {:again, non_neg_integer()} | :final | :out_of_time
  def decide(policy, error, attempt, idempotent?, left) do
    cond do
      attempt >= policy.max_attempts or not repeatable?(policy, error, idempotent?) ->
        :final

      left == :infinity ->
        {:again, pause_for(policy, error, attempt)}

      true ->
        pause = pause_for(policy, error, attempt)
        if pause < left, do: {:again, pause}, else: :out_of_time
    end
  end

  defp repeatable?(policy, %Error{category: :worker_crash, outcome: outcome, details: details}, idempotent?),
    do: (outcome == :not_started or idempotent?) and details[:cause] in policy.retry_on

  # The worker is being stopped and has refused it: another takes its place.
  defp repeatable?(_, %Error{category: :unavailable, outcome: :not_started}, _), do: true
  defp repeatable?(_, _, _), do: false

  defp pause_for(policy, %Error{retry_after_ms: hint}, attempt), do: max(pause(policy, attempt), hint || 0)

  @doc "The pause after the nth attempt, in milliseconds; `chance` is a number from 0 to 1."
  @spec pause(t(), pos_integer(), float()) :: non_neg_integer()
  def pause(%__MODULE__{backoff: {first, factor, max}, jitter: jitter}, attempt, chance \\ :rand.uniform())
      when is_float(chance) do
    # The exponent is bounded, for the power of a factor has no end and a float has.
    pause = min(first * :math.pow(factor, min(attempt - 1, 64)), max)
    round(pause * (1 + jitter * (2 * chance - 1)))
  end
end
