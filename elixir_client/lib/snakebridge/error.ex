defmodule SnakeBridge.Error do
  @moduledoc """
  The one error of this library: what Python raised, what the worker answered, or what the client found out itself.

  `category` is what programs match on:

    * `:python_error` - Python code raised; `python_type`, `python_traceback`, `stacktrace`, `notes` and `cause` say what
    * `:timeout`, `:cancelled` - the call was interrupted, at its deadline or at somebody's wish
    * `:invalid_request`, `:unknown_tool`, `:unknown_ref`, `:invalid_ref`, `:session_mismatch`, `:session_deadlock` - the request is wrong
    * `:encode_error`, `:decode_error`, `:limit_exceeded` - a value cannot travel
    * `:callback_error`, `:callback_gone` - an Elixir function that Python called failed, or is no more
    * `:protocol_error`, `:protocol_mismatch`, `:unauthorized`, `:unsupported_version` - client and worker do not understand each other
    * `:idempotency_conflict` - the `idempotency_key` belongs to a call with other arguments
    * `:worker_crash`, `:session_lost`, `:worker_start`, `:unavailable` - there is no worker, or no longer the one that is needed
    * `:overloaded`, `:circuit_open`, `:memory_limit` - the call was refused, because there is too much work, because calls like it fail or
      kill their workers, or because memory is short
    * `:permission_denied` - what it asks for is not allowed

  `context` names the call, `details` holds what only some categories have. Where a call did not end by itself, `outcome` says whether it took effect:
  `:not_started` (it did not: it may be made again), `:unknown` (nobody knows). `retry_after_ms` is when to try again, where that is known.
  """

  @categories ~w(
    python_error timeout cancelled unknown_tool invalid_request unknown_ref invalid_ref session_mismatch session_deadlock
    limit_exceeded encode_error decode_error callback_error callback_gone protocol_error unauthorized unsupported_version
    protocol_mismatch unavailable worker_crash session_lost worker_start idempotency_conflict
    overloaded circuit_open memory_limit permission_denied
  )a
  @category_names Map.new(@categories, &{Atom.to_string(&1), &1})
  @context_names Map.new(
                   ~w(tool_name session_id library python_module module module_path function call_type)a,
                   &{Atom.to_string(&1), &1}
                 )

  @outcomes %{"not_started" => :not_started, "unknown" => :unknown}

  # A chain of causes is as long as Python made it; a longer one could only come from a broken peer.
  @longest_chain 64

  defexception category: :python_error,
               message: "",
               python_type: nil,
               python_traceback: nil,
               stacktrace: [],
               notes: [],
               cause: nil,
               context: %{},
               details: %{},
               outcome: nil,
               retry_after_ms: nil

  @type t :: %__MODULE__{
          category: atom(),
          message: String.t(),
          python_type: String.t() | nil,
          python_traceback: String.t() | nil,
          stacktrace: [String.t()],
          notes: [String.t()],
          cause: t() | nil,
          context: %{optional(atom() | String.t()) => term()},
          details: map(),
          outcome: :not_started | :unknown | nil,
          retry_after_ms: non_neg_integer() | nil
        }

  @doc "Every category that this version knows. An error of any other one has category `:unknown`."
  @spec categories() :: [atom()]
  def categories, do: @categories

  @doc "An error that the client found out itself. `:outcome` and `:retry_after_ms` among the details become fields."
  @spec new(atom(), String.t(), map()) :: t()
  def new(category, message, details \\ %{}) when category in @categories do
    {fields, details} = Map.split(details, [:outcome, :retry_after_ms])
    struct!(%__MODULE__{category: category, message: message, details: details}, fields)
  end

  @impl true
  def message(%__MODULE__{python_type: type, message: message, category: category, notes: notes}) do
    first =
      case {type, message} do
        {nil, ""} -> Atom.to_string(category)
        {nil, message} -> message
        {type, ""} -> type
        {type, message} -> "#{type}: #{message}"
      end

    Enum.join([first | notes], "\n")
  end

  @doc """
  The error that an error map of the wire describes (docs/wire.md section 2.5). Takes any term: what is missing or of the wrong kind gets its
  default. No atoms are made: an unknown category becomes `:unknown`, and its name is kept in `details`.
  """
  @spec from_wire(term()) :: t()
  def from_wire(map) when is_map(map) and not is_struct(map), do: from_wire(map, @longest_chain)

  def from_wire(other),
    do:
      new(
        :protocol_error,
        "an error that is no error map came in: #{inspect(other, limit: 5, printable_limit: 80)}"
      )

  defp from_wire(map, chain) do
    name = map["category"]

    {category, details} =
      case @category_names do
        %{^name => category} -> {category, plain_map(map["details"])}
        _ -> {:unknown, Map.put(plain_map(map["details"]), "category", name)}
      end

    {outcome, details} = Map.pop(details, "outcome")
    {pause, details} = Map.pop(details, "retry_after_ms")

    %__MODULE__{
      category: category,
      message: text(map["message"]) || "",
      python_type: text(map["type"]),
      python_traceback: text(map["traceback"]),
      stacktrace: texts(map["stacktrace"]),
      notes: texts(map["notes"]),
      cause:
        if(chain > 0 and is_map(map["cause"]) and not is_struct(map["cause"]),
          do: from_wire(map["cause"], chain - 1)
        ),
      context:
        Map.new(plain_map(map["context"]), fn {key, value} -> {Map.get(@context_names, key, key), value} end),
      details: details,
      outcome: @outcomes[outcome],
      retry_after_ms: if(is_integer(pause) and pause >= 0, do: pause)
    }
  end

  # A message with lone surrogates comes as a SnakeBridge.Text.
  defp text(value) when is_binary(value), do: value
  defp text(%SnakeBridge.Text{} = value), do: to_string(value)
  defp text(_), do: nil

  defp texts(values) when is_list(values), do: for(value <- values, text = text(value), do: text)
  defp texts(_), do: []

  defp plain_map(value) when is_map(value) and not is_struct(value), do: value
  defp plain_map(_), do: %{}
end
