defmodule SnakeBridge.Ref do
  @moduledoc """
  A handle to an object that stays in Python. It names the object within its session and costs nothing to pass around; calls take it
  wherever they take a value. `pool` says which pool the object lives in and does not travel.
  """

  @enforce_keys [:id, :session_id]
  defstruct [:id, :session_id, :pool, python_module: "", library: "", type_name: ""]

  @type t :: %__MODULE__{
          id: String.t(),
          session_id: String.t(),
          python_module: String.t() | nil,
          library: String.t() | nil,
          type_name: String.t() | nil,
          pool: term()
        }

  defimpl Inspect do
    # Local on purpose: a log line or a crash report must never wait for a Python worker.
    def inspect(%{python_module: module, type_name: type} = ref, _opts) do
      name = Enum.join(for(part <- [module, type], part not in [nil, ""], do: part), ".")
      "#SnakeBridge.Ref<#{if name == "", do: "object", else: name} #{ref.id} in #{ref.session_id}>"
    end
  end
end
