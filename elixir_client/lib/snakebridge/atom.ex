defmodule SnakeBridge.Atom do
  @moduledoc """
  The name of an atom that came from Python and is no atom here: it does not exist yet (Python must not be able to fill the atom table),
  or its name means another value on the wire (`nil`, `true`, `false`, `nan`, `infinity`, `neg_infinity`).

  It goes back to Python as the same atom. `to_string/1` gives the name.
  """

  @enforce_keys [:name]
  defstruct [:name]

  @type t :: %__MODULE__{name: String.t()}

  @reserved ~w(nil true false nan infinity neg_infinity)

  @doc "The existing atom of a name, else the struct. Never makes an atom."
  @spec existing(String.t()) :: atom() | t()
  def existing(name) when name in @reserved, do: %__MODULE__{name: name}

  def existing(name) when is_binary(name) do
    String.to_existing_atom(name)
  rescue
    _not_an_atom -> %__MODULE__{name: name}
  end

  defimpl String.Chars do
    def to_string(%{name: name}), do: name
  end
end
