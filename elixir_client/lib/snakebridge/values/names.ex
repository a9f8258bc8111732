defmodule SnakeBridge.UUID do
  @moduledoc ~S(A Python `UUID`: 36 characters in lower case, such as "12345678-1234-5678-1234-567812345678".)

  @enforce_keys [:text]
  defstruct [:text]

  @type t :: %__MODULE__{text: String.t()}

  defimpl String.Chars do
    def to_string(%{text: text}), do: text
  end
end

defmodule SnakeBridge.Path do
  @moduledoc """
  A Python `pathlib` path. `type` is its class: "PosixPath", "WindowsPath", "PurePosixPath" or "PureWindowsPath". A name that is not valid
  UTF-8 is a `SnakeBridge.Text`.
  """

  @enforce_keys [:type, :path]
  defstruct [:type, :path]

  @type t :: %__MODULE__{type: String.t(), path: String.t() | SnakeBridge.Text.t()}

  @doc "A path of this machine's kind, for `Path` arguments of Python functions."
  @spec new(String.t()) :: t()
  def new(path) when is_binary(path) do
    type = if match?({:win32, _}, :os.type()), do: "WindowsPath", else: "PosixPath"
    %__MODULE__{type: type, path: path}
  end

  defimpl String.Chars do
    def to_string(%{path: path}), do: Kernel.to_string(path)
  end
end

defmodule SnakeBridge.IP do
  @moduledoc """
  An address, network or interface of Python's `ipaddress`. `type` is its class, such as "IPv4Address" or "IPv6Network".
  """

  @enforce_keys [:type, :text]
  defstruct [:type, :text]

  @type t :: %__MODULE__{type: String.t(), text: String.t()}

  @doc """
  The address as `:inet` and `:gen_tcp` take it; of a network or interface, with the length of its prefix.

      iex> SnakeBridge.IP.to_tuple(%SnakeBridge.IP{type: "IPv4Address", text: "127.0.0.1"})
      {127, 0, 0, 1}
      iex> SnakeBridge.IP.to_tuple(%SnakeBridge.IP{type: "IPv4Network", text: "10.0.0.0/8"})
      {{10, 0, 0, 0}, 8}
  """
  @spec to_tuple(t()) :: :inet.ip_address() | {:inet.ip_address(), non_neg_integer()}
  def to_tuple(%__MODULE__{text: text}) do
    case String.split(text, "/") do
      [address] -> address(address)
      [address, prefix] -> {address(address), String.to_integer(prefix)}
    end
  end

  defp address(text) do
    # A scope, as in "fe80::1%eth0", has no place in the tuple.
    [plain | _scope] = String.split(text, "%")
    {:ok, address} = plain |> String.to_charlist() |> :inet.parse_address()
    address
  end

  defimpl String.Chars do
    def to_string(%{text: text}), do: text
  end
end

defmodule SnakeBridge.Pattern do
  @moduledoc """
  A compiled pattern of Python's `re` that Elixir's regular expressions would read in another way. `source` is text or `SnakeBridge.Bytes`,
  `flags` the number of its flags in Python.
  """

  @enforce_keys [:source]
  defstruct [:source, flags: 32]

  @type t :: %__MODULE__{
          source: String.t() | SnakeBridge.Text.t() | SnakeBridge.Bytes.t(),
          flags: non_neg_integer()
        }
end
