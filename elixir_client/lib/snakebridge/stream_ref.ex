defmodule SnakeBridge.StreamRef do
  @moduledoc """
  A handle to a Python iterator, generator or async generator. Items are fetched when it is enumerated.
  """

  @enforce_keys [:id, :session_id]
  defstruct [
    :id,
    :session_id,
    :pool,
    python_module: "",
    library: "",
    type_name: "",
    stream_type: "iterator"
  ]

  @type t :: %__MODULE__{
          id: String.t(),
          session_id: String.t(),
          python_module: String.t() | nil,
          library: String.t() | nil,
          type_name: String.t() | nil,
          stream_type: String.t(),
          pool: term()
        }

  defimpl Inspect do
    def inspect(ref, _opts),
      do: "#SnakeBridge.StreamRef<#{ref.stream_type} #{ref.id} in #{ref.session_id}>"
  end
end
