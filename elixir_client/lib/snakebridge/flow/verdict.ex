defmodule SnakeBridge.Flow.Verdict do
  @moduledoc """
  What can be certified of a flow (docs/flow/certificates.md).

    * `phase` - `:green` where everything that the profile asks for is shown, `:amber` where something is not, `:red` where this is no flow at all
    * `feasible` - whether the phase is `:green`; `told` - the verdict in words, with what would help
    * `certificates` - by name (`"eta_dd"`, `"gamma"`, `"beta"`) what is known: maps with `"value"`, `"kind"` (`"exact"`, `"lower_bound"`,
      `"upper_bound"`, `"estimate"`), `"method"`, ...
    * `findings` - what was found against it: maps with `"check"`, `"reason"`, `"remedy"`, `"advice"`, `"value"`, `"limit"`
    * `profile`, `limits` - what was asked for; `lens` - the coordinates of `eta_dd`; `scope` - where it holds
  """

  @fields [:phase, :feasible, :told, :certificates, :findings, :profile, :limits, :lens, :scope]
  @enforce_keys @fields
  defstruct @fields

  @type phase :: :red | :amber | :green
  @type t :: %__MODULE__{
          phase: phase(),
          feasible: boolean(),
          told: String.t(),
          certificates: %{String.t() => map()},
          findings: [map()],
          profile: String.t(),
          limits: %{String.t() => number()},
          lens: String.t(),
          scope: String.t()
        }

  @phases %{"RED" => :red, "AMBER" => :amber, "GREEN" => :green}

  @doc "The verdict in an answer of the worker; nil for none."
  @spec from_wire(map() | nil) :: t() | nil
  def from_wire(nil), do: nil

  def from_wire(told) do
    fields = for field <- @fields, do: {field, told[Atom.to_string(field)]}
    verdict = struct!(__MODULE__, fields)
    %{verdict | phase: phase(verdict.phase)}
  end

  @doc "A phase as an atom; nil for none."
  @spec phase(String.t() | nil) :: phase() | nil
  def phase(text), do: text && Map.fetch!(@phases, text)
end
