defmodule SnakeBridge.Payload do
  @moduledoc "The payloads of the SnakeBridge tools, as today's wire has them: string keys, args and kwargs as Elixir terms."

  @versions %{"protocol_version" => 1, "min_supported_version" => 1}

  @doc "A payload of the given kind; `nil` fields are left out."
  @spec call(String.t() | nil, String.t(), map()) :: map()
  def call(kind, session, fields) do
    payload = @versions |> Map.put("session_id", session) |> Map.merge(fields)
    if kind, do: Map.put(payload, "call_type", kind), else: payload
  end

  @spec release_session(String.t()) :: map()
  def release_session(session), do: Map.put(@versions, "session_id", session)

  @spec release_ref(SnakeBridge.Ref.t() | SnakeBridge.StreamRef.t()) :: map()
  def release_ref(ref), do: Map.merge(@versions, %{"ref" => ref, "session_id" => ref.session_id})
end
