defmodule SnakeBridge.Pool.Places do
  @moduledoc """
  Where the remote workers of a pool are, as its option `:workers` says: read and checked once, with the tokens out of sight of every log.
  """
  alias SnakeBridge.Lane.Transport

  @known [
    :address,
    :token,
    :token_file,
    :insecure,
    :cacertfile,
    :certfile,
    :keyfile,
    :server_name,
    :verify,
    :tls
  ]

  @enforce_keys [:address, :token, :connect]
  # `connect`: options of `SnakeBridge.Lane.Connection.open/5`.
  defstruct [:address, :token, :connect]

  @type t :: %__MODULE__{
          address: String.t(),
          token: SnakeBridge.Lane.Connection.token(),
          connect: keyword()
        }

  @doc """
  The options of a pool with its `:workers` read; those of a pool that starts its own are left as they are. Raises ArgumentError for what
  cannot be used.
  """
  @spec read(keyword()) :: keyword()
  def read(options) do
    case Keyword.fetch(options, :workers) do
      :error ->
        options

      {:ok, [_ | _] = workers} ->
        if options[:size],
          do:
            raise(
              ArgumentError,
              "a pool has as many workers as workers: names; remove size: from its options"
            )

        Keyword.put(options, :workers, Enum.map(workers, &place/1))

      {:ok, other} ->
        raise ArgumentError,
              "workers: must be a list of remote workers, each [address: \"tls:HOST:PORT\", token_file: PATH, ...], not #{shape(other)}"
    end
  end

  defp place(%__MODULE__{} = place), do: place

  defp place(given) do
    unless Keyword.keyword?(given),
      do:
        raise(
          ArgumentError,
          "a remote worker is a keyword list with address: and token: or token_file:, not #{shape(given)}"
        )

    for {key, _} <- given, key not in @known do
      raise ArgumentError,
            "a remote worker has no option #{inspect(key)}; the options are #{Enum.map_join(@known, ", ", &inspect/1)}"
    end

    address = Keyword.get(given, :address, "")
    encrypted!(address, given)
    options = Keyword.take(given, [:cacertfile, :certfile, :keyfile, :server_name, :verify, :tls])
    %__MODULE__{address: address, token: token(given, address), connect: [shared: false] ++ options}
  end

  defp encrypted!(address, given) do
    Transport.place(address)

    unless String.starts_with?(address, "tls:") or Transport.local?(address) or given[:insecure] == true do
      raise ArgumentError,
            "#{address} is another machine, and what travels there would not be encrypted, the token included; " <>
              "use tls: (docs/security.md), or insecure: true for a network that encrypts by itself"
    end
  end

  defp token(given, address) do
    case {given[:token], given[:token_file]} do
      {token, nil} when is_binary(token) ->
        fn -> token end

      {fetch, nil} when is_function(fetch, 0) ->
        fn -> fetched(fetch) end

      {nil, path} when is_binary(path) ->
        fn -> read_file(path) end

      _ ->
        raise ArgumentError,
              "the worker at #{address} needs token: (a string, or a function that returns one) or token_file: (a path), and not both"
    end
  end

  # What it raised may hold what it knows: only the kind is told.
  defp fetched(fetch) do
    fetch.()
  rescue
    error -> {:error, "the function given as token: raised #{inspect(error.__struct__)}"}
  end

  # Read for each connection, so that the file may be replaced.
  defp read_file(path) do
    import Bitwise

    with {:ok, %{mode: mode}} when (mode &&& 0o037) == 0 <- File.stat(path),
         {:ok, text} <- File.read(path) do
      case String.trim(text) do
        "" -> {:error, "the file #{path} is empty"}
        token -> {:ok, token}
      end
    else
      {:ok, _} -> {:error, "others may read the file #{path}; a secret needs mode 0600: chmod 600 #{path}"}
      {:error, reason} -> {:error, "the file #{path} cannot be read: #{:file.format_error(reason)}"}
    end
  end

  # Without its content, which may be a token.
  defp shape(list) when is_list(list), do: "a list of something else"
  defp shape(map) when is_map(map), do: "a map"
  defp shape(_), do: "something else"
end
