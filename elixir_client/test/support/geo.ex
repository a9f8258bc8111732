defmodule SnakeBridge.Test.Point do
  @moduledoc "A struct that travels by value, derived."
  @derive {SnakeBridge.Encoder, tag: "test.point"}
  defstruct [:x, :y]
end

defmodule SnakeBridge.Test.Label do
  @moduledoc "A struct that travels by value, derived, but for what matters here only."
  @derive {SnakeBridge.Encoder, tag: "test.label", only: [:text]}
  @enforce_keys [:text]
  defstruct [:text, cache: nil]
end

defmodule SnakeBridge.Test.Temperature do
  @moduledoc "A struct that travels by value, with an implementation of its own."
  defstruct [:kelvin, tag: "test.temperature"]

  defimpl SnakeBridge.Encoder do
    def encode(%{tag: tag, kelvin: kelvin}), do: if(tag, do: {tag, kelvin}, else: :nonsense)
  end
end
